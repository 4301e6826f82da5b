"""The location shift between two samples of log ratios: the Hodges-Lehmann estimate with exact Mann-Whitney bounds.

Pure functions. Source: Hodges and Lehmann, "Estimates of location based on rank tests" (1963); Mann and Whitney, "On a
test of whether one of two random variables is stochastically larger than the other" (1947). The only assumption is
a continuous distribution; ties make the bounds conservative.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

_MAX_EXACT_PRODUCT = 10_000
"""Up to this num_a x num_b the null distribution is exact; above, the normal approximation errs by less than 1 %."""


@dataclass(frozen=True, slots=True)
class LocationShift:
    """``estimate`` is the median of all differences ``a - b``; ``low`` to ``high`` covers the true shift.

    ``confidence`` is the interval's exact coverage. With few values the interval spans all differences, and its
    coverage may be less than requested.
    """

    estimate: float
    low: float
    high: float
    confidence: float


def estimate_shift(a: Sequence[float], b: Sequence[float], confidence: float) -> LocationShift:
    """How far ``a`` lies above ``b``, in their unit. Neither may be empty."""
    differences = sorted(x - y for x in a for y in b)
    side = (1 - confidence) / 2
    rank = 1
    while 2 * rank < len(differences) and rank_sum_probability(len(a), len(b), rank) <= side:
        rank += 1
    return LocationShift(
        estimate=statistics.median(differences),
        low=differences[rank - 1],
        high=differences[len(differences) - rank],
        confidence=max(0.0, 1 - 2 * rank_sum_probability(len(a), len(b), rank - 1)),
    )


def p_value_below(a: Sequence[float], b: Sequence[float], bound: float) -> float:
    """The p-value of "``a`` is ``b`` shifted by ``bound`` or more": small when it is shifted by less."""
    return rank_sum_probability(len(a), len(b), sum(x - y >= bound for x in a for y in b))


def p_value_above(a: Sequence[float], b: Sequence[float], bound: float) -> float:
    """The p-value of "``a`` is ``b`` shifted by ``bound`` or less": small when it is shifted by more."""
    return rank_sum_probability(len(a), len(b), sum(x - y <= bound for x in a for y in b))


def smallest_p_value(num_a: int, num_b: int) -> float:
    """The smallest p-value that samples of these sizes can reach."""
    return rank_sum_probability(num_a, num_b, 0)


def rank_sum_probability(num_a: int, num_b: int, u: int) -> float:
    """P(U <= u), where U counts the pairs with ``a > b`` and all orders of the values are equally likely."""
    product = num_a * num_b
    if product > _MAX_EXACT_PRODUCT:
        deviation = math.sqrt(product * (num_a + num_b + 1) / 12)
        return statistics.NormalDist(product / 2, deviation).cdf(u + 0.5)
    counts = _cumulative_counts(*sorted((num_a, num_b)))
    if 2 * u >= product:  # the distribution is symmetric; the lower half is kept
        return 1 - rank_sum_probability(num_a, num_b, product - u - 1) if u < product else 1.0
    return counts[u] / math.comb(num_a + num_b, num_a) if u >= 0 else 0.0


@functools.lru_cache(maxsize=64)
def _cumulative_counts(num_a: int, num_b: int) -> tuple[int, ...]:
    """How many orders have U <= 0, 1, ... up to the middle.

    They are the coefficients of the Gaussian binomial, the product over i of (1 - q^(num_b + i)) / (1 - q^i).
    """
    counts = [1] + [0] * (num_a * num_b // 2)
    for i in range(1, num_a + 1):
        for power in range(len(counts) - 1, num_b + i - 1, -1):
            counts[power] -= counts[power - num_b - i]
        for power in range(i, len(counts)):
            counts[power] += counts[power - i]
    return tuple(accumulate(counts))
