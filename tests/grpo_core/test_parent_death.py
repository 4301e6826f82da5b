"""A child of ``multiprocessing`` ends with the process that started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the death signal of a parent is Linux's")

PARENT = """
import multiprocessing, sys, time
from grpo_core.parent_death import end_with_parent

def live(pipe):
    end_with_parent()
    pipe.send("bound")
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    mine, theirs = context.Pipe()
    child = context.Process(target=live, args=(theirs,))
    child.start()
    mine.recv()
    print(child.pid, flush=True)
    time.sleep(600)
"""

ORPHAN = """
import multiprocessing, os, signal
from grpo_core.parent_death import end_with_parent

def live(parent):
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        pass
    print("orphan", flush=True)
    end_with_parent()
    print("alive", flush=True)

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=live, args=(os.getpid(),))
    child.start()
    child.join()
"""


@pytest.mark.parametrize(
    ("method", "is_stopped"),
    [
        ("spawn", False),
        pytest.param("spawn", True, marks=pytest.mark.slow),
        pytest.param("fork", False, marks=pytest.mark.slow),
        pytest.param("fork", True, marks=pytest.mark.slow),
    ],
)
def test_it_is_killed_when_its_parent_is(method: str, is_stopped: bool, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    if is_stopped:
        child.suspend()

    parent.kill()
    parent.communicate()

    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == []


def test_it_ends_at_once_when_its_parent_is_gone_already(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)

    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    output, _ = parent.communicate(timeout=60)  # until both have closed it

    assert output == "orphan\n"
