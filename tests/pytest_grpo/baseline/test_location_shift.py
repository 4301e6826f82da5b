from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from pytest_grpo.baseline.location_shift import (
    estimate_shift,
    p_value_above,
    p_value_below,
    rank_sum_probability,
    smallest_p_value,
)

NOISES: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda chance: chance.gauss(0, 1),
    "heavy tail": lambda chance: chance.gauss(0, 1) / max(abs(chance.gauss(0, 1)), 1e-9),
    "skewed": lambda chance: chance.expovariate(1),
}


@pytest.mark.parametrize(("num_a", "num_b"), [(1, 1), (3, 5), (8, 8), (12, 40), (40, 27)])
def test_p_values_equal_those_of_scipy(num_a: int, num_b: int) -> None:
    chance = random.Random(num_a)
    a, b = [chance.gauss(-0.5, 1) for _ in range(num_a)], [chance.gauss(0, 1) for _ in range(num_b)]
    for bound in (-1.0, 0.0, 0.3):
        moved = [x - bound for x in a]
        less = mannwhitneyu(moved, b, alternative="less", method="exact").pvalue
        greater = mannwhitneyu(moved, b, alternative="greater", method="exact").pvalue
        assert p_value_below(a, b, bound) == pytest.approx(less, rel=1e-9)
        assert p_value_above(a, b, bound) == pytest.approx(greater, rel=1e-9)


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_null_distribution_is_one(num_a: int, num_b: int) -> None:
    total = num_a * num_b
    steps = [rank_sum_probability(num_a, num_b, u) for u in range(-1, total + 1)]
    assert steps[0] == 0
    assert steps[-1] == 1
    assert steps == sorted(steps)
    assert steps[1] == pytest.approx(1 / math.comb(num_a + num_b, num_a)) == smallest_p_value(num_a, num_b)


def test_many_values_use_a_normal_that_agrees_with_the_count() -> None:
    exact, normal = rank_sum_probability(100, 100, 4000), rank_sum_probability(100, 101, 4040)
    assert normal == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("num_a", "num_b"), [(8, 8), (8, 27)])
def test_the_interval_covers_the_true_shift_as_often_as_it_says(noise: str, num_a: int, num_b: int) -> None:
    chance, draw, shift, trials = random.Random(7), NOISES[noise], 0.4, 1500
    covered, confidence = 0, 0.0
    for _ in range(trials):
        a, b = [draw(chance) + shift for _ in range(num_a)], [draw(chance) for _ in range(num_b)]
        found = estimate_shift(a, b, 0.9)
        covered += found.low <= shift <= found.high
        confidence = found.confidence
    assert 0.9 <= confidence < 0.93
    assert covered / trials == pytest.approx(confidence, abs=4 * math.sqrt(0.1 * 0.9 / trials))


def test_the_estimate_is_the_median_of_all_differences() -> None:
    found = estimate_shift([1.0, 4.0], [0.0, 1.0], 0.98)
    assert found.estimate == 2.0  # of 0, 1, 3 and 4
    assert (found.low, found.high) == (0.0, 4.0)
    assert found.confidence == pytest.approx(1 - 2 / 6)


@given(
    st.lists(st.floats(-1, 1), min_size=5, max_size=9),
    st.lists(st.floats(-1, 1), min_size=5, max_size=9),
    st.floats(-1, 1),
)
def test_a_small_p_value_means_that_the_interval_excludes_the_bound(
    a: list[float], b: list[float], bound: float
) -> None:
    found = estimate_shift(a, b, 0.98)
    if p_value_below(a, b, bound) <= 0.01:
        assert found.high < bound
    if p_value_above(a, b, bound) <= 0.01:
        assert found.low > bound
