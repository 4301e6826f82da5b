from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from pytest_grpo.measuring.statistics.sign_test import (
    DEFAULT_LOOKS,
    Plan,
    control_problem,
    estimate,
    holm,
    interval,
    judge,
    median_ratio,
    stopping_ranks,
)
from pytest_grpo.types import Verdict

ratios = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)
exact_ratios = st.lists(st.integers(-6, 6).map(lambda power: 2.0**power), min_size=1, max_size=60)
"""Powers of two: inverting them is exact, and ties are frequent."""
exact_bounds = st.integers(-6, 6).map(lambda power: 2.0**power)
confidences = st.sampled_from([0.5, 0.9, 0.95, 0.99])
alphas = st.sampled_from([0.0005, 0.001, 0.01, 0.02, 0.1, 0.3])
plans = st.builds(
    Plan,
    looks=st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True).map(lambda looks: tuple(sorted(looks))),
    pass_alpha=alphas,
    fail_alpha=alphas,
)


def chance_of_a_claim(looks: list[int], ranks: list[int]) -> float:
    """Of fewer contradicting pairs than the rank at any of the looks, when each pair is a fair coin."""
    alive, before, claimed = np.ones(1), 0, 0.0
    for look, rank in zip(looks, ranks, strict=True):
        new = look - before
        alive, before = np.convolve(alive, scipy_stats.binom.pmf(np.arange(new + 1), new, 0.5)), look
        claimed += alive[:rank].sum()
        alive[:rank] = 0
    return claimed


# The median and its interval


@given(ratios, confidences)
def test_median_lies_in_an_interval_of_measured_values(values: list[float], confidence: float) -> None:
    found = interval(values, confidence)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert {found.low, found.high} <= set(values)
    assert found.num_pairs == len(values)


@given(ratios)
def test_swapping_the_arms_inverts_the_interval(values: list[float]) -> None:
    there, back = interval(values), interval([1 / value for value in values])
    assert back.median == pytest.approx(1 / there.median)
    assert back.low == pytest.approx(1 / there.high)
    assert back.high == pytest.approx(1 / there.low)


@given(ratios)
def test_median_is_that_of_the_logs(values: list[float]) -> None:
    expected = float(np.median(np.log(values)))
    assert math.log(median_ratio(values)) == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 80), st.integers(1, 40), st.integers(1, 40))
def test_coverage_is_the_binomial_one(num_values: int, lower: int, upper: int) -> None:
    assume(max(lower, upper) <= (num_values + 1) // 2)
    outside = scipy_stats.binom.cdf([lower - 1, upper - 1], num_values, 0.5)
    expected = max(0.0, 1 - outside.sum())
    found = estimate([float(value) for value in range(1, num_values + 1)], lower, upper)
    assert found.confidence == pytest.approx(expected, abs=1e-12)
    assert (found.low, found.high) == (lower, num_values - upper + 1)


@given(st.lists(st.floats(0.1, 10), min_size=8, max_size=60, unique=True), confidences)
def test_interval_is_that_of_scipys_quantile_test(values: list[float], confidence: float) -> None:
    expected = scipy_stats.quantile_test(values, p=0.5).confidence_interval(confidence_level=confidence)
    assume(math.isfinite(expected.low) and math.isfinite(expected.high))
    found = interval(values, confidence)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_few_pairs_say_what_their_range_covers() -> None:
    assert interval([1.0, 2.0, 4.0, 8.0, 16.0]).confidence == 1 - 2 / 2**5
    assert interval([3.0]).confidence == 0


# Looking a few planned times


@pytest.mark.parametrize("looks", [(3,), (2, 5), (3, 5, 8), (1, 2, 3, 4), (4, 7, 11)])
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.4])
def test_ranks_spend_what_they_may_and_no_rank_could_be_higher(looks: tuple[int, ...], alpha: float) -> None:
    shares = tuple((place + 1) / len(looks) for place in range(len(looks)))
    ranks = stopping_ranks(looks, shares, alpha)
    paths = [tuple(itertools.accumulate(coins)) for coins in itertools.product((0, 1), repeat=looks[-1])]

    def spent(ranks: tuple[int, ...]) -> Fraction:
        claims = sum(any(path[look - 1] < rank for look, rank in zip(looks, ranks, strict=False)) for path in paths)
        return Fraction(claims, len(paths))

    for place, share in enumerate(shares):
        so_far = ranks[: place + 1]
        assert spent(so_far) <= share * alpha
        assert spent((*so_far[:-1], so_far[-1] + 1)) > share * alpha


@given(st.integers(1, 60), st.integers(0, 60), alphas)
def test_a_single_look_is_the_sign_test(num_pairs: int, num_below: int, alpha: float) -> None:
    assume(num_below <= num_pairs)
    verdict, _ = judge(
        [0.5] * num_below + [2.0] * (num_pairs - num_below), 1.0, math.inf, Plan((num_pairs,), alpha, alpha)
    )
    passes = scipy_stats.binomtest(num_below, num_pairs, 0.5, alternative="less").pvalue <= alpha
    fails = scipy_stats.binomtest(num_below, num_pairs, 0.5, alternative="greater").pvalue <= alpha
    expected = Verdict.PASS if passes else Verdict.FAIL if fails else Verdict.INCONCLUSIVE
    assert verdict is expected


@given(plans, st.integers(1, 70))
def test_any_end_planned_or_not_keeps_the_errors(plan: Plan, num_pairs: int) -> None:
    looks = [*(look for look in plan.looks if look < num_pairs), num_pairs]
    ranks = [plan.ranks(look, is_last=look == num_pairs) for look in looks]
    assert chance_of_a_claim(looks, [rank for rank, _ in ranks]) <= plan.pass_alpha * (1 + 1e-9)
    assert chance_of_a_claim(looks, [rank for _, rank in ranks]) <= plan.fail_alpha * (1 + 1e-9)


def test_default_looks_spend_nearly_all_they_may() -> None:
    ranks = [Plan().ranks(look) for look in DEFAULT_LOOKS]
    assert ranks[-1] == (13, 12)
    assert chance_of_a_claim(list(DEFAULT_LOOKS), [rank for rank, _ in ranks]) > 0.9 * Plan().pass_alpha


def test_default_looks_on_simulated_ratios() -> None:
    plan, rng = Plan(), np.random.default_rng(7)
    num_gates, verdicts = 3_000, []
    for values in np.exp(0.04 * rng.standard_t(3, (num_gates, DEFAULT_LOOKS[-1]))):
        looks = (judge(values[:look].tolist(), 1.0, math.inf, plan)[0] for look in DEFAULT_LOOKS)
        verdicts.append(next((verdict for verdict in looks if verdict is not Verdict.INCONCLUSIVE), None))
    for verdict, alpha in ((Verdict.PASS, plan.pass_alpha), (Verdict.FAIL, plan.fail_alpha)):
        assert verdicts.count(verdict) < scipy_stats.binom.ppf(0.999, num_gates, alpha)
        assert verdicts.count(verdict) > 0


@given(plans, st.sampled_from([Verdict.PASS, Verdict.FAIL]))
def test_the_fewest_pairs_are_the_first_look_that_clear_pairs_decide(plan: Plan, verdict: Verdict) -> None:
    clear = 2.0 if verdict is Verdict.PASS else 0.5
    deciding = [look for look in plan.looks if judge([clear] * look, 1.0, math.inf, plan)[0] is verdict]
    fewest = plan.min_pairs(verdict)
    if deciding:
        assert fewest == deciding[0]
    else:
        assert fewest > plan.looks[-1]
        assert judge([clear] * fewest, 1.0, math.inf, plan)[0] is verdict


def test_an_end_at_a_planned_look_spends_what_is_left() -> None:
    plan = Plan(fail_alpha=0.009)
    clearly_worse, nearly_better = [0.1] * 8, [0.5] * 4 + [2.0] * 14
    assert judge(clearly_worse, 1.0, math.inf, plan)[0] is Verdict.INCONCLUSIVE
    assert judge(clearly_worse, 1.0, math.inf, plan, is_last=True)[0] is Verdict.FAIL
    assert judge(nearly_better, 1.0, math.inf, plan)[0] is Verdict.INCONCLUSIVE
    assert judge(nearly_better, 1.0, math.inf, plan, is_last=True)[0] is Verdict.PASS


@pytest.mark.parametrize("looks", [(), (0, 4), (4, 4), (8, 4)])
def test_looks_rise_from_one(looks: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        Plan(looks)


# The verdict


@given(ratios, st.floats(1e-3, 1e3), st.floats(1, 100), plans)
def test_raising_all_ratios_never_takes_a_pass_away(
    values: list[float], bound: float, factor: float, plan: Plan
) -> None:
    ranking = [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]
    before, _ = judge(values, bound, math.inf, plan)
    after, _ = judge([value * factor for value in values], bound, math.inf, plan)
    assert ranking.index(after) >= ranking.index(before)


@given(exact_ratios, exact_bounds, plans)
def test_swapping_the_arms_swaps_at_least_and_at_most(values: list[float], bound: float, plan: Plan) -> None:
    there, found = judge(values, bound, math.inf, plan)
    back, inverse = judge([1 / value for value in values], -math.inf, 1 / bound, plan)
    assert there is back
    assert (found.low, found.high) == (1 / inverse.high, 1 / inverse.low)
    assert found.confidence == inverse.confidence


@given(exact_ratios, exact_bounds, exact_bounds, plans)
def test_a_band_is_both_its_sides(values: list[float], one: float, other: float, plan: Plan) -> None:
    low, high = min(one, other), max(one, other)
    sides = {judge(values, low, math.inf, plan)[0], judge(values, -math.inf, high, plan)[0]}
    verdict, _ = judge(values, low, high, plan)
    if sides == {Verdict.PASS}:
        assert verdict is Verdict.PASS
    else:
        assert verdict is (Verdict.FAIL if Verdict.FAIL in sides else Verdict.INCONCLUSIVE)


@given(
    exact_ratios,
    st.one_of(
        exact_bounds.map(lambda low: (low, math.inf)),
        exact_bounds.map(lambda high: (-math.inf, high)),
        st.tuples(exact_bounds, exact_bounds).map(lambda ends: (min(ends), max(ends))),
    ),
    plans,
)
def test_the_interval_shown_is_the_one_that_decides(
    values: list[float], bounds: tuple[float, float], plan: Plan
) -> None:
    low, high = bounds
    verdict, found = judge(values, low, high, plan)
    assert found.low <= found.median <= found.high
    if verdict is Verdict.PASS:
        assert low <= found.low <= found.high <= high
    elif verdict is Verdict.FAIL:
        assert found.high < low or found.low > high


def test_the_order_of_the_pairs_does_not_matter() -> None:
    values = [1.0, 1.5, 0.9, 1.2, 1.3, 1.1, 1.4, 1.6]
    assert judge(values, 1.0, math.inf, Plan()) == judge(sorted(values), 1.0, math.inf, Plan())


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [-1.0], [math.nan], [1.0, math.inf]])
def test_values_without_a_log_are_rejected(values: list[float]) -> None:
    for use in (interval, control_problem, lambda values: judge(values, 1.0, math.inf, Plan())):
        with pytest.raises(ValueError, match="ratio"):
            use(values)


# The gates of a session


def test_holm_rejects_step_by_step() -> None:
    # 0.05 over 4, 3, 2, 1: 0.0125, 0.0167, 0.025, 0.05.
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.01, 0.02, 0.03, 0.005], 0.05) == [True, True, True, True]
    assert holm([0.013, 0.014, 0.015, 0.016], 0.05) == [False, False, False, False]
    assert holm([], 0.05) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float], alpha: float) -> None:
    """Rejected is what every family that contains it rejects; the worst family of a size has the largest others."""
    for index, rejected in enumerate(holm(p_values, alpha)):
        others = sorted((p for place, p in enumerate(p_values) if place != index), reverse=True)
        families = [[p_values[index], *others[:size]] for size in range(len(p_values))]
        assert rejected == all(min(family) <= alpha / len(family) for family in families)


# The A/A control


def control_rate(bias: float, noise: float, num_controls: int) -> float:
    rng = np.random.default_rng(11)
    controls = np.exp(math.log(bias) + noise * math.sqrt(2) * rng.standard_normal((num_controls, 12)))
    return sum(bool(control_problem(values.tolist())) for values in controls) / num_controls


def test_control_is_silent_when_the_same_work_takes_the_same_time() -> None:
    assert control_rate(1.0, 0.04, 5_000) <= 0.002
    assert control_rate(1.0, 0.0001, 5_000) == 0  # a lean that is too small to matter


@pytest.mark.parametrize("bias", [1.05, 1 / 1.05])
def test_control_sees_a_bias(bias: float) -> None:
    assert control_rate(bias, 0.01, 200) > 0.98
    assert control_problem([bias] * 12).startswith("the same work measured against itself gave")


def test_control_sees_noise() -> None:
    assert control_problem([1.6, 1 / 1.6] * 6) == "pairs of the same work differ by 60 % (typically)"
    assert control_problem([1.2, 1 / 1.2] * 6) == ""


def test_control_of_few_pairs_finds_no_bias() -> None:
    assert control_problem([1.05] * 10) == ""
    assert control_problem([1.05] * 11)
