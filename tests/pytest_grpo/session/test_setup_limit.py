"""``--grpo-budget`` bounds what a test does beside its pairs."""

from __future__ import annotations

import pytest

from pytest_grpo.session.setup_limit import setup_limit_s

ENDLESS = "signal.raise_signal(signal.SIGALRM); threading.Event().wait(60)"
"""The clock rings at once: what the machine takes for the rest of a test decides nothing."""
SUITE = """
import signal, threading
import pytest
from pytest_grpo import nothing_to_check

@pytest.fixture
def model(grpo_gate):
    {in_fixture}

@pytest.mark.phase2
def test_speed(grpo_arms, model):
    {in_test}
    fast, slow = grpo_arms(agree=nothing_to_check, fast=lambda: {{"seconds": 1}}, slow=lambda: {{"seconds": 3}})
    assert slow.seconds >= 2 * fast.seconds
    {after}

@pytest.mark.phase2
def test_next(grpo_arms):
    fast, slow = grpo_arms(agree=nothing_to_check, fast=lambda: {{"seconds": 1}}, slow=lambda: {{"seconds": 3}})
    assert slow.seconds >= 2 * fast.seconds
"""
ENDED = (
    "setup_s: inconclusive: the test took 120 s beside its pairs and was stopped; "
    "give --grpo-budget 48, or a smaller run"
)


def run(project: pytest.Pytester, *arguments: str, **places: str) -> pytest.RunResult:
    code = {"in_fixture": "pass", "in_test": "pass", "after": "pass"} | places
    project.makepyfile(test_suite=SUITE.format(**code))
    return project.runpytest_inprocess("--phase", "2", "--grpo-budget", "0.1", "-rx", *arguments)


@pytest.mark.parametrize("place", ["in_fixture", "in_test", "after"])
def test_a_set_up_without_end_is_inconclusive_and_the_next_test_runs(project: pytest.Pytester, place: str) -> None:
    result = run(project, **{place: ENDLESS})
    result.assert_outcomes(passed=1, xfailed=1)
    result.stdout.fnmatch_lines(["2 *setup_s*120 s*<= 120 s*inconclusive", f"*{ENDED}*"])


def test_code_that_catches_everything_is_asked_again(project: pytest.Pytester) -> None:
    stubborn = f"try: {ENDLESS}\n    except BaseException: {ENDLESS}"
    result = run(project, in_test=stubborn)
    result.assert_outcomes(passed=1, xfailed=1)
    assert result.stdout.str().count("inconclusive: setup_s") == 1


def test_what_was_red_before_stays_red(project: pytest.Pytester) -> None:
    red = "grpo_arms(agree=nothing_to_check, a=lambda: {'seconds': 1}, b=lambda: {'seconds': 3})"
    result = run(project, in_test=f"a, b = {red}\n    a.seconds >= 2 * b.seconds\n    {ENDLESS}")
    result.assert_outcomes(passed=1, failed=1)


def test_it_fails_where_inconclusive_is_a_failure(project: pytest.Pytester) -> None:
    result = run(project, "--grpo-inconclusive=fail", in_test=ENDLESS)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"*{ENDED}*"])


def test_it_counts_among_the_gates_that_decided_nothing(project: pytest.Pytester) -> None:
    result = run(project, "--deselect=test_suite.py::test_next", in_test=ENDLESS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["grpo: 1 of 1 timing gate is inconclusive: setup_s; *"])


def test_the_clock_stands_still_in_pairs(project: pytest.Pytester) -> None:
    left = "signal.getitimer(signal.ITIMER_REAL)[0]"
    arms = [f"{name}=lambda: seen.append({left}) or {{'seconds': {s}}}" for name, s in (("a", 1), ("b", 3))]
    code = [
        "seen = []",
        f"a, b = grpo_arms(agree=nothing_to_check, {', '.join(arms)})",
        "assert b.seconds >= 2 * a.seconds",
    ]
    result = run(project, in_test="\n    ".join([*code, "assert set(seen) == {0.0}", f"assert {left} > 0"]))
    result.assert_outcomes(passed=2)


def test_the_limit_follows_the_budget() -> None:
    assert (setup_limit_s(45), setup_limit_s(1)) == (225, 120)
