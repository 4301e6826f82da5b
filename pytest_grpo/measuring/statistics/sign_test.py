"""A group-sequential sign test: does the median ratio of pairs meet a threshold, at a few planned interim looks?

The statistic is the median of the pairs' ratios. A sign test compares it with a threshold: each pair lies above the
true median with probability one half, whatever the noise. Each look is another chance for an error; the ranks below
keep the error of all looks together at most ``alpha`` (alpha spending, Lan and DeMets 1983, with the exact distribution
of the sign counts). Pure functions.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_grpo.types import Verdict

DEFAULT_LOOKS = (8, 12, 18, 27, 40)
PASS_ALPHA = 0.02
"""The probability that a gate passes although its true ratio lies exactly on the threshold."""
FAMILY_ALPHA = 0.01
"""The probability of any false failure among all gates of a session."""
MAX_CONTROL_BIAS = 0.01
MAX_CONTROL_SPREAD = 0.30


@dataclass(frozen=True, slots=True)
class Estimate:
    """The median of ``num_pairs`` values. [``low``, ``high``] covers the true median with probability ``confidence``.

    That is the coverage at this look alone; ``stopping_ranks`` accounts for several looks.
    """

    median: float
    low: float
    high: float
    num_pairs: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The interim looks of a gate, and the error probability of each verdict for a true ratio on the threshold."""

    looks: tuple[int, ...] = DEFAULT_LOOKS
    pass_alpha: float = PASS_ALPHA
    fail_alpha: float = FAMILY_ALPHA

    def __post_init__(self) -> None:
        assert self.looks
        assert list(self.looks) == sorted(set(self.looks))
        assert self.looks[0] >= 1

    def ranks(self, num_pairs: int, *, is_last: bool = False) -> tuple[int, int]:
        """The ranks that decide at ``num_pairs``: for a pass and for a failure. With 0 there can be no such verdict.

        The last look may use all of the error budget that remains. A number of pairs that was not planned means that
        the time ran out, so that look is the last; a planned one is when ``is_last`` says so.
        """
        looks = (*(look for look in self.looks if look < num_pairs), num_pairs)
        is_last = is_last or num_pairs not in self.looks or num_pairs == self.looks[-1]
        shares = [(place + 1) / len(self.looks) for place in range(len(looks))]
        if is_last:
            shares[-1] = 1.0
        pass_ranks = stopping_ranks(looks, tuple(shares), self.pass_alpha)
        fail_ranks = stopping_ranks(looks, tuple(shares), self.fail_alpha)
        return pass_ranks[-1], fail_ranks[-1]

    def min_pairs(self, verdict: Verdict) -> int:
        """The fewest pairs that can give ``verdict``, if all of them agree. They may be more than are planned."""
        alpha = self.pass_alpha if verdict is Verdict.PASS else self.fail_alpha
        which = 0 if verdict is Verdict.PASS else 1
        unplanned = max(self.looks[-1] + 1, math.ceil(-math.log2(alpha)))
        return next((look for look in self.looks if self.ranks(look)[which]), unplanned)


@functools.cache
def stopping_ranks(looks: tuple[int, ...], shares: tuple[float, ...], alpha: float) -> tuple[int, ...]:
    """For each look a number r: the claim is accepted if fewer than r pairs contradict it; r = 0 never accepts.

    With the true median on the threshold, contradicting pairs are counts of a fair coin. The probability that any look
    up to the i-th accepts the claim is at most ``shares[i] * alpha``, computed exactly.
    """
    alive = {0: 1.0}  # contradicting pairs -> probability, over the sequences without a claim so far
    spent, before, ranks = 0.0, 0, []
    for look, share in zip(looks, shares, strict=True):
        alive = _toss(alive, look - before)
        before, rank = look, 0
        while rank <= look and spent + alive.get(rank, 0.0) <= share * alpha:
            spent += alive.pop(rank, 0.0)
            rank += 1
        ranks.append(rank)
    return tuple(ranks)


def _toss(counts: dict[int, float], num_coins: int) -> dict[int, float]:
    """The distribution of ``counts`` after ``num_coins`` more tosses of a fair coin."""
    tossed: dict[int, float] = {}
    for count, probability in counts.items():
        for heads in range(num_coins + 1):
            share = probability * math.comb(num_coins, heads) / 2**num_coins
            tossed[count + heads] = tossed.get(count + heads, 0.0) + share
    return tossed


def judge(
    ratios: Sequence[float], low: float, high: float, plan: Plan, *, is_last: bool = False
) -> tuple[Verdict, Estimate]:
    """The verdict of one look at ``ratios`` on whether their true median lies in [``low``, ``high``].

    Pass: the whole interval lies inside. Fail: the whole interval lies below ``low`` or above ``high``. Open bounds are
    -inf and inf. The estimate has the interval that decided. ``is_last``: no look follows, since the time is over.

    Raises:
        ValueError: there are no ratios, or one is not finite and above zero.
    """
    check_ratios(ratios)
    ordered = sorted(ratios)
    size = len(ordered)
    pass_rank, fail_rank = plan.ranks(size, is_last=is_last)
    if _inside(ordered, low, high, pass_rank):
        verdict = Verdict.PASS
    elif fail_rank and (ordered[size - fail_rank] < low or ordered[fail_rank - 1] > high):
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.INCONCLUSIVE
    lower, upper = (fail_rank, fail_rank) if verdict is Verdict.FAIL else (pass_rank, pass_rank)
    if low == -math.inf:
        lower, upper = fail_rank, pass_rank
    elif high == math.inf:
        lower, upper = pass_rank, fail_rank
    return verdict, estimate(ordered, max(lower, 1), max(upper, 1))


def _inside(ordered: Sequence[float], low: float, high: float, rank: int) -> bool:
    return rank > 0 and ordered[rank - 1] >= low and ordered[len(ordered) - rank] <= high


def estimate(values: Sequence[float], lower_rank: int, upper_rank: int) -> Estimate:
    """The median of positive ``values`` with the interval from the ``lower_rank``-th smallest to the ``upper_rank``-th
    largest. Ranks above the middle are taken as the middle."""
    ordered = sorted(values)
    middle = (len(ordered) + 1) // 2
    lower, upper = min(lower_rank, middle), min(upper_rank, middle)
    return Estimate(
        median=median_ratio(ordered),
        low=ordered[lower - 1],
        high=ordered[len(ordered) - upper],
        num_pairs=len(ordered),
        confidence=max(0.0, 1 - _tail(len(ordered), lower) - _tail(len(ordered), upper)),
    )


def interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The median with the narrowest symmetric order-statistic interval that covers it with ``confidence``.

    If none does, the interval runs from the smallest to the largest value, and ``confidence`` is lower.
    """
    check_ratios(values)
    rank = 1
    while rank < (len(values) + 1) // 2 and 1 - 2 * _tail(len(values), rank + 1) >= confidence:
        rank += 1
    return estimate(values, rank, rank)


def _tail(size: int, rank: int) -> float:
    """The chance that the ``rank``-th smallest of ``size`` values lies above their true median."""
    return sum(math.comb(size, count) for count in range(rank)) / 2**size


def median_ratio(values: Sequence[float]) -> float:
    """The exponential of the median log: the middle value, or the geometric mean of the middle two."""
    ordered = sorted(values)
    below, above = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return below if below == above else min(max(math.sqrt(below) * math.sqrt(above), below), above)


def check_ratios(ratios: Sequence[float]) -> None:
    """Raises ValueError when there are no ratios, or one is not finite and above zero."""
    if not ratios:
        raise ValueError("no ratios to judge; measure at least one pair")
    for ratio in ratios:
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(f"ratio {ratio!r}: must be finite and above zero; check what was measured")


def holm(p_values: Sequence[float], alpha: float = FAMILY_ALPHA) -> list[bool]:
    """Which hypotheses are rejected so that any false rejection has probability ``alpha`` at most (Holm 1979)."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def control_problem(ratios: Sequence[float]) -> str:
    """Why pairs of the *same* work show that timings cannot be trusted; empty when they can.

    Biased: the median differs from 1 by more than 1 %, significant at 1 in 1,000. Noisy: half of the pairs differ by
    more than 30 %.
    """
    check_ratios(ratios)
    rank = 0
    while 2 * _tail(len(ratios), rank + 1) <= 0.001:
        rank += 1
    middle = median_ratio(ratios)
    if rank:
        found = estimate(ratios, rank, rank)
        if not found.low <= 1 <= found.high and abs(math.log(middle)) > math.log1p(MAX_CONTROL_BIAS):
            return f"the same work measured against itself gave {middle:.3g} [{found.low:.3g}, {found.high:.3g}]"
    spread = statistics.median(abs(math.log(ratio)) for ratio in ratios)
    if spread > math.log1p(MAX_CONTROL_SPREAD):
        return f"pairs of the same work differ by {100 * math.expm1(spread):.0f} % (typically)"
    return ""
