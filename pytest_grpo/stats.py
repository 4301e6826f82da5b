"""What paired measurements say about a ratio: its median and an exact interval. Pure functions.

The statistic is the median of the log ratios of the pairs. Its interval lies between two order statistics, whose
coverage is exact for any continuous distribution: each ratio is above the true median with probability one half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_grpo.measure import Pairs


@dataclass(frozen=True, slots=True)
class RatioEstimate:
    """The median of ``num_pairs`` positive values and the interval that covers the true median.

    ``confidence`` is the interval's exact coverage. With few pairs it is that of the smallest to the largest value,
    which may be lower than what was asked for; with one pair it is 0.
    """

    median: float
    low: float
    high: float
    num_pairs: int
    confidence: float


def summarise(pairs: Pairs, confidence: float = 0.95) -> RatioEstimate:
    """The throughput (quantity per second) of arm ``a`` over that of arm ``b``."""
    ratios = [a.per_second / b.per_second for a, b in zip(pairs.a, pairs.b, strict=True)]
    return estimate_ratio(ratios, confidence)


def estimate_ratio(ratios: Sequence[float], confidence: float = 0.95) -> RatioEstimate:
    """The median of ``ratios`` on a log scale, with its interval.

    Raises:
        ValueError: there are no ratios, or one is not finite and above zero.
    """
    if not ratios:
        raise ValueError("no ratios to estimate from; measure at least one pair")
    for ratio in ratios:
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(f"ratio {ratio!r}: must be finite and above zero; check what was measured")
    ordered = sorted(ratios)
    rank, coverage = interval_rank(len(ordered), confidence)
    return RatioEstimate(
        median=_geometric_median(ordered),
        low=ordered[rank - 1],
        high=ordered[len(ordered) - rank],
        num_pairs=len(ordered),
        confidence=coverage,
    )


def interval_rank(num_values: int, confidence: float) -> tuple[int, float]:
    """The rank k of the narrowest interval [k-th smallest, k-th largest] that covers the median with ``confidence``.

    Returns k and the interval's coverage. k is 1 where no interval reaches ``confidence``.
    """
    rank, coverage = 1, _coverage(num_values, 1)
    while rank < (num_values + 1) // 2 and _coverage(num_values, rank + 1) >= confidence:
        rank += 1
        coverage = _coverage(num_values, rank)
    return rank, coverage


def _coverage(num_values: int, rank: int) -> float:
    outside = sum(math.comb(num_values, k) for k in range(rank))
    return max(0.0, 1 - 2 * outside / 2**num_values)


def _geometric_median(ordered: Sequence[float]) -> float:
    """The exponential of the median log: exactly the middle value, or the geometric mean of the middle two."""
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    below, above = ordered[middle - 1], ordered[middle]
    return min(max(math.exp((math.log(below) + math.log(above)) / 2), below), above)
