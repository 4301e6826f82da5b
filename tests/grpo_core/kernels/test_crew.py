"""Work in stages: each item once, after the stage before, whichever threads come."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from grpo_core.kernels.compiler import FOLDER
from grpo_core.kernels.crew import open_crew
from tests.grpo_core.rollout.torch_engine.random_decoders import needs_compiler

DRIVER = Path(__file__).with_name("crew_driver.c")


def run_driver(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    program = folder / "driver"
    build = [compiler, "-std=gnu11", "-O1", "-g", "-fopenmp", "-pthread", *flags, f"-I{FOLDER}", str(DRIVER)]
    built = subprocess.run([*build, "-o", str(program)], capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr:
        pytest.skip("gcc without its sanitizers")
    assert built.returncode == 0, built.stderr
    environment = os.environ | {"TSAN_OPTIONS": "die_after_fork=0"}
    return subprocess.run([str(program)], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("flags", [(), pytest.param(("-fsanitize=thread",), marks=pytest.mark.slow)])
def test_jobs_of_several_callers_come_out_right(tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = run_driver(tmp_path, *flags)
    assert (done.stdout, done.returncode) == ("0 wrong, 0 of the child, 4 threads\n", 0), done.stderr[-2000:]


def test_threads_that_never_come_are_not_waited_for(tmp_path: Path) -> None:
    done = run_driver(tmp_path, "-DNO_THREADS", "-Wno-unused")
    assert (done.stdout, done.returncode) == ("0 wrong, 0 of the child, 0 threads\n", 0), done.stderr[-2000:]


@needs_compiler
def test_torch_computes_in_one_thread_while_the_crew_leads() -> None:
    crew = open_crew()
    assert crew is not None
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with crew.leading():
            assert (crew.num_threads, torch.get_num_threads()) == (3, 1)
            with crew.torch_leading():
                assert (crew.num_threads, torch.get_num_threads()) == (3, 3)
            assert (crew.num_threads, torch.get_num_threads()) == (3, 1)
        assert (crew.num_threads, torch.get_num_threads()) == (3, 3)
        with crew.torch_leading():  # nobody leads
            assert torch.get_num_threads() == 3
        with pytest.raises(RuntimeError), crew.leading():
            raise RuntimeError
        assert (crew.num_threads, torch.get_num_threads()) == (3, 3)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_a_crew_that_leads_in_one_thread_leaves_the_others_alone() -> None:
    crew = open_crew()
    assert crew is not None
    found: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with crew.leading():
            other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
            other.start()
            other.join()
    finally:
        torch.set_num_threads(before)
    assert found == [2]
