from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from pytest_grpo.measure import Pairs, Sample
from pytest_grpo.stats import estimate_ratio, interval_rank, summarise

ratios = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)
confidences = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@given(ratios, confidences)
def test_median_lies_in_an_interval_of_measured_values(values: list[float], confidence: float) -> None:
    estimate = estimate_ratio(values, confidence)
    assert min(values) <= estimate.low <= estimate.median <= estimate.high <= max(values)
    assert {estimate.low, estimate.high} <= set(values)
    assert estimate.num_pairs == len(values)


@given(ratios)
def test_swapping_the_arms_inverts_the_estimate(values: list[float]) -> None:
    there, back = estimate_ratio(values), estimate_ratio([1 / value for value in values])
    assert back.median == pytest.approx(1 / there.median)
    assert back.low == pytest.approx(1 / there.high)
    assert back.high == pytest.approx(1 / there.low)


@given(ratios)
def test_median_agrees_with_the_median_of_logs(values: list[float]) -> None:
    logs = sorted(math.log(value) for value in values)
    middle = len(logs) // 2
    expected = logs[middle] if len(logs) % 2 else (logs[middle - 1] + logs[middle]) / 2
    assert math.log(estimate_ratio(values).median) == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 80), confidences)
def test_coverage_is_the_binomial_one_and_no_narrower_interval_has_enough(num_values: int, confidence: float) -> None:
    rank, coverage = interval_rank(num_values, confidence)

    def exact(k: int) -> float:
        return float(1 - 2 * scipy_stats.binom.cdf(k - 1, num_values, 0.5))

    assert coverage == pytest.approx(max(0.0, exact(rank)), abs=1e-12)
    assert coverage >= confidence or rank == 1
    narrower_is_possible = rank < (num_values + 1) // 2
    assert not narrower_is_possible or exact(rank + 1) < confidence


@given(st.lists(st.floats(0.1, 10), min_size=8, max_size=60, unique=True))
def test_interval_is_that_of_scipys_quantile_test(values: list[float]) -> None:
    expected = scipy_stats.quantile_test(values, p=0.5).confidence_interval(confidence_level=0.95)
    estimate = estimate_ratio(values, 0.95)
    # scipy spends its error on each side on its own; both are the outermost ranks that still cover.
    assert estimate.low == expected.low
    assert estimate.high == expected.high


def test_few_pairs_say_what_their_range_covers() -> None:
    assert estimate_ratio([1.0, 2.0, 4.0, 8.0, 16.0]).confidence == 1 - 2 / 2**5
    assert estimate_ratio([3.0]).confidence == 0


def test_summary_compares_quantity_per_second_pair_by_pair() -> None:
    pairs = Pairs(
        a=(Sample(100, 1.0), Sample(400, 2.0), Sample(90, 0.1)), b=(Sample(50, 1.0), Sample(50, 1.0), Sample(10, 0.1))
    )
    estimate = summarise(pairs)
    assert (estimate.low, estimate.median, estimate.high) == pytest.approx((2.0, 4.0, 9.0))


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [-1.0], [math.nan], [math.inf]])
def test_values_without_a_log_are_rejected(values: list[float]) -> None:
    with pytest.raises(ValueError, match="ratio"):
        estimate_ratio(values)
