from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("few_plugins")

TIMING = """
import os, pathlib, pytest
from pytest_grpo.agreement import nothing_to_check
from pytest_grpo.types import Sample

marks = pathlib.Path({folder!r})

def work():
    mine = marks / f"running-{{os.getpid()}}"
    mine.touch()
    with (marks / "seen.txt").open("a") as file:
        file.write(f"{{len(list(marks.glob('running-*')))}}\\n")
    mine.unlink()
    return Sample(seconds=1.0)

@pytest.mark.parametrize("number", range(6))
def test_timing(grpo_arms, number):
    a, b = grpo_arms(agree=nothing_to_check, a=work, b=work)
    assert a.seconds <= 2 * b.seconds
"""

EXACT = """
import pathlib, pytest, time

marks = pathlib.Path({folder!r})

@pytest.mark.parametrize("own, other", [("one", "two"), ("two", "one")])
def test_exact(grpo_gate, own, other):
    (marks / own).touch()
    deadline = time.monotonic() + 60
    while not (marks / other).exists():
        assert time.monotonic() < deadline, "the other one must run at the same time"
        time.sleep(0.01)
"""

DIES = """
import os, pytest
from pytest_grpo.agreement import nothing_to_check
from pytest_grpo.types import Sample

@pytest.mark.parametrize("name", ["dies", "lives", "lives_too"])
def test_timing(grpo_arms, name):
    if name == "dies":
        os._exit(3)
    a, b = grpo_arms(agree=nothing_to_check, a=lambda: Sample(seconds=1.0), b=lambda: Sample(seconds=1.0))
    assert a.seconds <= 2 * b.seconds
"""


def test_timing_gates_of_xdist_workers_run_one_at_a_time(project: pytest.Pytester, tmp_path: Path) -> None:
    project.makepyfile(test_suite=TIMING.format(folder=str(tmp_path)))
    project.runpytest("-n2").assert_outcomes(passed=6)
    assert set((tmp_path / "seen.txt").read_text().split()) == {"1"}


def test_other_tests_of_xdist_workers_run_in_parallel(project: pytest.Pytester, tmp_path: Path) -> None:
    project.makepyfile(test_suite=EXACT.format(folder=str(tmp_path)))
    project.runpytest("-n2").assert_outcomes(passed=2)


@pytest.mark.slow
def test_a_worker_that_dies_while_it_measures_blocks_no_other(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=DIES)
    result = project.runpytest("-n2")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running 'test_suite.py::test_timing[[]dies[]]'"])
