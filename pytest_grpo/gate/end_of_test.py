"""The end of a test's call phase: a red verdict fails the test, whether it was asserted or not.

A test can forget an assertion, swallow its error, negate it, or compare nothing. Its gate knows better.
"""

from __future__ import annotations

from typing import NoReturn

import pytest

from pytest_grpo.gate.explain import explain
from pytest_grpo.gate.gates import Gate
from pytest_grpo.types import Row, Verdict


def end_test(gate: Gate, *, has_failed: bool = False) -> None:
    """End a test that raised nothing. ``has_failed`` says that one of its subtests did.

    Raises:
        pytest.fail.Exception: a verdict is red; or inconclusive, if the session is so configured.
        pytest.UsageError: arms were never compared.
        pytest.xfail.Exception: a verdict is inconclusive.
    """
    __tracebackhide__ = True
    fail_if_red(gate)
    for comparison in gate.comparisons:
        if not (comparison.is_decided or has_failed):
            (first, *_), second = comparison.sampler.arms, list(comparison.sampler.arms)[-1]
            raise pytest.UsageError(
                f"grpo_arms({', '.join(comparison.sampler.arms)}): no arm is ever compared, so nothing was measured; "
                f"write assert {first}.seconds <= 1.1 * {second}.seconds, or the like"
            )
    undecided = [row for row in gate.rows if row.verdict == Verdict.INCONCLUSIVE]
    if undecided and gate.config.inconclusive != "fail":
        pytest.xfail("; ".join(f"{row.metric}: inconclusive: {row.reason}" for row in undecided))
    if undecided:  # or else --runxfail has turned pytest.xfail off
        _fail(undecided)


def end_teardown(gate: Gate, num_before: int) -> None:
    """End the teardown of a test, which may have compared, too: all but the first ``num_before`` rows are its own.

    Raises:
        pytest.fail.Exception: a verdict of the teardown is red; or inconclusive, if the session is so configured.
    """
    __tracebackhide__ = True
    gate.is_closed = True
    wrong = {Verdict.FAIL, Verdict.INCONCLUSIVE} if gate.config.inconclusive == "fail" else {Verdict.FAIL}
    if rows := [row for row in gate.rows[num_before:] if row.verdict in wrong]:
        _fail(rows)


def red_text(gate: Gate) -> str:
    """What is red, in lines; empty when nothing is."""
    return "\n".join(line for row in gate.rows if row.verdict == Verdict.FAIL for line in explain(row))


def fail_if_red(gate: Gate) -> None:
    """Raises pytest.fail.Exception when a verdict of the test is red."""
    __tracebackhide__ = True
    for comparison in gate.comparisons:
        comparison.count_again()
    red = [row for row in gate.rows if row.verdict == Verdict.FAIL]
    if red:
        _fail(red)


def _fail(rows: list[Row]) -> NoReturn:
    __tracebackhide__ = True
    pytest.fail("\n".join(line for row in rows for line in explain(row)), pytrace=False)
