from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_grpo.measuring.statistics.error_budget import ErrorBudget
from pytest_grpo.measuring.statistics.sign_test import DEFAULT_LOOKS, FAMILY_ALPHA, Plan, judge
from pytest_grpo.types import Verdict


@given(st.integers(1, 12), st.lists(st.booleans(), max_size=30))
def test_the_shares_of_sound_gates_never_exceed_alpha(num_gates: int, failures: list[bool]) -> None:
    budget, kept = ErrorBudget(num_gates), 0.0
    for failed in failures:
        share = budget.grant()
        assert share > 0
        assert kept + share <= FAMILY_ALPHA * (1 + 1e-9)
        if failed:
            budget.give_back(share)
        else:
            kept += share


@given(st.integers(2, 12))
def test_failures_first_are_holms_steps(num_gates: int) -> None:
    budget = ErrorBudget(num_gates)
    for num_failed in range(num_gates - 1):
        share = budget.grant()
        assert share == pytest.approx(FAMILY_ALPHA / (num_gates - num_failed))
        budget.give_back(share)


@given(st.integers(2, 12))
def test_sound_gates_share_equally_and_the_last_leaves_something(num_gates: int) -> None:
    budget = ErrorBudget(num_gates)
    *shares, last = [budget.grant() for _ in range(num_gates)]
    assert shares == pytest.approx([FAMILY_ALPHA / num_gates] * (num_gates - 1))
    assert 0 < last < FAMILY_ALPHA / num_gates
    assert 0 < budget.grant() < last


@pytest.mark.parametrize("num_expected", [1, 10, 11, 50, 200])
@pytest.mark.parametrize("num_comparisons", [1, 10, 11, 50, 200])
def test_each_comparison_of_a_session_can_fail(num_expected: int, num_comparisons: int) -> None:
    budget = ErrorBudget(num_expected)
    share = [budget.grant() for _ in range(num_comparisons)][-1]
    verdict, _ = judge([0.1] * 40, 1.0, math.inf, Plan(fail_alpha=share))
    assert verdict is Verdict.FAIL


@pytest.mark.parametrize("num_expected", [1, 9, 50])
def test_many_comparisons_spend_less_than_the_session_has(num_expected: int) -> None:
    budget, spent = ErrorBudget(num_expected), Fraction(0)
    for _ in range(200):
        spent += exact_chance_of_failure(Plan(fail_alpha=budget.grant()))
        assert spent < Fraction(FAMILY_ALPHA)
    assert spent > Fraction(FAMILY_ALPHA) / 4  # most of it is used


def test_a_failure_beyond_the_expected_number_costs_the_later_ones_nothing() -> None:
    budget = ErrorBudget(1)
    budget.grant()
    share = budget.grant()
    budget.give_back(share)
    assert budget.grant() == pytest.approx(share)


def exact_chance_of_failure(plan: Plan) -> Fraction:
    """Of a gate exactly on its threshold, where each pair is a fair coin."""
    alive, before, failed = {0: Fraction(1)}, 0, Fraction(0)
    for look in DEFAULT_LOOKS:
        num_new, tossed = look - before, dict[int, Fraction]()
        for count, chance in alive.items():
            for heads in range(num_new + 1):
                share = chance * math.comb(num_new, heads) / 2**num_new
                tossed[count + heads] = tossed.get(count + heads, Fraction(0)) + share
        _, rank = plan.ranks(look)
        failed += sum((tossed.pop(count) for count in range(rank) if count in tossed), Fraction(0))
        alive, before = tossed, look
    return failed
