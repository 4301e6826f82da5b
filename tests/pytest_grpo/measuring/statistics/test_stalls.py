from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_grpo.measuring.statistics.stalls import describe_stalls, judge_means, p_value_of

steps = st.lists(st.integers(-1000, 1000), min_size=1, max_size=9)


def by_enumeration(differences: list[float]) -> float:
    sums = [
        sum(itertools.compress(differences, chosen)) for chosen in itertools.product((0, 1), repeat=len(differences))
    ]
    return sum(total <= 0 for total in sums) / len(sums)


@given(steps)
def test_p_value_is_that_of_all_swaps(differences: list[int]) -> None:
    exact = by_enumeration([*differences, 1000])  # the largest difference is 1000 grid steps: nothing is rounded
    assert p_value_of([float(value) for value in [*differences, 1000]]) == pytest.approx(exact)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9))
def test_rounding_never_makes_the_p_value_smaller(differences: list[float]) -> None:
    assert p_value_of(differences) >= by_enumeration(differences) - 1e-12


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.integers(0, 8), st.floats(0, 5))
def test_a_better_sample_never_speaks_for_stalls(differences: list[float], place: int, gain: float) -> None:
    place %= len(differences)
    better = [value - gain if index == place else value for index, value in enumerate(differences)]
    assert by_enumeration(better) >= by_enumeration(differences)


def test_means_inside_say_nothing() -> None:
    assert not judge_means([1.0, 5.0, 1.0], [3.0, 3.0, 3.0], -math.inf, 1.1).is_outside
    assert judge_means([1.0, 5.0, 1.0], [1.0, 1.0, 1.0], -math.inf, 1.1).is_outside


def test_one_hiccup_is_chance_and_a_third_of_the_samples_is_not() -> None:
    once, often = [5.0] + [1.0] * 39, [5.0, 1.0, 1.0] * 13 + [1.0]
    assert judge_means(once, [1.0] * 40, -math.inf, 1.05).p_value == pytest.approx(0.5, abs=0.01)
    assert judge_means(often, [1.0] * 40, -math.inf, 1.05).p_value < 0.0002


def test_stalls_of_both_arms_are_no_stalls() -> None:
    """A burst of the machine hits either arm."""
    tops, bottoms = [5.0, 1.0, 1.0] * 12, [1.0, 5.0, 1.0] * 12
    assert judge_means(tops, bottoms, -math.inf, 0.99).p_value > 0.1


def test_far_from_the_threshold_stalls_that_leave_enough_are_no_problem() -> None:
    """3.5 times as fast where 2 are asked for, and every tenth sample takes twice as long."""
    assert not judge_means([3.5] * 40, [2.0] * 4 + [1.0] * 36, 2.0, math.inf).is_outside


def test_stalls_in_words() -> None:
    times = [4.8] * 11 + [1.0] * 29
    means = judge_means([1.0] * 40, times, 1.0, math.inf)
    assert not means.is_top_slow
    assert describe_stalls("fast", times, means) == (
        "stalls: 11 of 40 samples of arm fast took 4.8 times its median; the ratio of the means is 0.489"
    )
