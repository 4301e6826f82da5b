from __future__ import annotations

import math

import pytest
from scipy import stats as scipy_stats

from pytest_grpo.measuring.statistics.carry_over import CarryOver, describe_order_effect, find_carry_over


def test_effects_are_means_with_a_pooled_error() -> None:
    found = find_carry_over({"a": [0.1, 0.2, 0.3], "b": [0.0, 0.0, 0.3]})
    assert found is not None
    assert found.effects == pytest.approx({"a": 0.2, "b": 0.1})
    pooled = (0.02 + 0.06) / 4
    assert found.error == pytest.approx(math.sqrt(pooled / 3))


def test_one_round_tells_nothing() -> None:
    assert find_carry_over({"a": [0.1], "b": [0.0]}) is None
    assert find_carry_over({}) is None


def test_what_was_perhaps_missed_reaches_further_with_fewer_rounds() -> None:
    few, many = (CarryOver({"a": 0.0, "b": 0.0}, 0.04 / math.sqrt(size), size) for size in (2, 20))
    assert few.reach > 3 * many.reach
    for size in (2, 3, 4, 8, 20):  # the factor is about the quantile of Student's t, pooled over both arms
        factor = CarryOver({"a": 0.0}, 1.0, size).reach / math.sqrt(2)
        assert factor == pytest.approx(scipy_stats.t.ppf(0.975, 2 * (size - 1)), rel=0.12)


def test_tiny_and_unclear_effects_are_not_found() -> None:
    assert CarryOver({"a": 0.15, "b": 0.0}, 0.01, 8).is_found
    assert not CarryOver({"a": 0.01, "b": 0.0}, 0.0001, 8).is_found
    assert not CarryOver({"a": 0.15, "b": 0.0}, 0.1, 8).is_found


def test_pairs_that_differ_by_who_begins_are_told() -> None:
    firsts = ["a", "b"] * 10
    said = "pairs that begin with arm a give 1.2, the others 1"
    assert describe_order_effect([1.2, 1.0] * 10, firsts) == said
    assert describe_order_effect([1.0, 1.2] * 10, firsts) == "pairs that begin with arm a give 1, the others 1.2"
    assert describe_order_effect([1.01, 1.0] * 10, firsts) == ""
    assert describe_order_effect([1.2, 1.0] * 3, firsts[:6]) == ""  # 6 pairs cannot tell
    assert describe_order_effect([1.2, 1.2, 1.0, 1.0] * 5, firsts) == ""
    assert describe_order_effect([1.0] * 20, firsts) == ""
    assert describe_order_effect([1.0, 2.0], ["a", "a"]) == ""
