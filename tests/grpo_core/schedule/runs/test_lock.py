"""A run is trained by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_core.errors import ConfigError
from grpo_core.home import Home
from grpo_core.schedule.runs.lock import check_free, hold_run, is_held
from grpo_core.schedule.runs.stored_runs import stored_runs

HOLDER = """
import os, sys, time
from pathlib import Path
from grpo_core.home import Home
from grpo_core.schedule.runs.lock import hold_run

with hold_run(Home(Path(sys.argv[1]), Path(sys.argv[1])), "x"):
    if os.fork() == 0:
        time.sleep(3600)
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "data", tmp_path / "traces")


@pytest.fixture
def holder(home: Home) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains run ``x``, with a child that outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.data)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, 9)
    process.communicate()


def held(home: Home, run: str) -> bool:
    with hold_run(home, run):
        return True


@pytest.mark.parametrize("take", [held, check_free])
def test_a_second_process_is_refused_with_the_first_ones_host_and_process(
    take: Callable[[Home, str], object], home: Home, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        take(home, "x")

    assert f"run 'x' is being trained by process {holder.pid} on {socket.gethostname()} since 20" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert held(home, "y")


def test_a_killed_process_leaves_nothing_that_blocks(home: Home, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()

    assert (home.locks / "x.lock").exists()
    assert held(home, "x")


def test_a_second_thread_is_refused(home: Home) -> None:
    errors: list[Exception] = []

    def take() -> None:
        try:
            held(home, "x")
        except ConfigError as error:
            errors.append(error)

    with hold_run(home, "x"):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        assert held(home, "x")  # the same thread: a measurement trains, too
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    take()

    assert len(errors) == 2
    assert f"another thread of this process, {os.getpid()}" in str(errors[0])


def test_a_look_writes_nothing(home: Home) -> None:
    check_free(home, "x")
    assert not home.data.exists()


def test_without_locks_a_run_is_trained_all_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert held(home, "x")


def test_one_may_ask_whether_a_run_is_trained(home: Home, holder: subprocess.Popen[str]) -> None:
    before = (home.locks / "x.lock").read_bytes()
    assert is_held(home, "x")
    assert not is_held(home, "y")
    assert (home.locks / "x.lock").read_bytes() == before
    assert not (home.locks / "y.lock").exists()
    holder.kill()
    holder.wait()
    assert not is_held(home, "x")


def test_asking_from_another_thread_keeps_the_lock(home: Home) -> None:
    with hold_run(home, "z"):
        assert is_held(home, "z")
        code = HOLDER.replace('"x"', '"z"')
        other = subprocess.run(
            [sys.executable, "-c", code, str(home.data)], capture_output=True, text=True, check=False
        )
        assert "is being trained by process" in other.stderr
    assert not is_held(home, "z")


@pytest.mark.slow
def test_asking_turns_nobody_away(home: Home) -> None:
    """A dashboard asks all the time, also at the moment at which a run begins."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_held(home, "x")

    asker = threading.Thread(target=ask)
    asker.start()
    for _ in range(200):
        assert held(home, "x")
    stop.set()
    asker.join()


def test_a_lock_file_that_was_removed_while_it_was_opened_is_not_the_lock(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by ``grpo runs --prune``: the next process would lock another file of that name."""
    path = home.locks / "x.lock"
    lockf, num_calls = fcntl.lockf, 0

    def remove_and_lock(*arguments: Any) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 1:
            path.unlink()
        lockf(*arguments)

    monkeypatch.setattr(fcntl, "lockf", remove_and_lock)
    with hold_run(home, "x"):
        assert json.loads(path.read_bytes())["process"] == os.getpid()
    assert num_calls == 2


def test_to_list_the_runs_takes_no_lock(
    home: Home, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins to train a run while the runs are listed is not turned away."""
    for run in ("x", "y"):
        (home.checkpoints / run).mkdir(parents=True)
    with hold_run(home, "y"):
        pass
    monkeypatch.setattr(fcntl, "lockf", lambda *_: pytest.fail("a lock was taken"))

    assert {each.name: each.is_training for each in stored_runs(home)} == {"x": True, "y": False}
