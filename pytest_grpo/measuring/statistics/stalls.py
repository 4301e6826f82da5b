"""Stalls: do the means of two arms meet a threshold, where their median ratio does?

If every third sample of an arm takes five times as long, the median does not change, and the arm is 2.3 times slower.
A randomization test compares the means: if an arm is exactly on the threshold, the machine slows it and the other arm,
scaled by the threshold, equally often, so the two could be swapped in any pair. The test holds whatever the noise, for
tails and bursts alike, and all the more for an arm that is better than the threshold. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_grpo.measuring.statistics.sign_test import median_ratio

SUSPICIOUS = 0.1
"""A p-value up to which stalls are not put down to chance: such a gate does not pass."""
MIN_FACTOR = 1.5
"""A sample that takes this many medians is a stall."""
GRID = 1_000
"""Differences are rounded to this part of the largest one, so that the larger p-value results."""


@dataclass(frozen=True, slots=True)
class Means:
    """The ratio of two arms' means. ``p_value`` is 1 inside the threshold."""

    ratio: float
    p_value: float
    is_top_slow: bool = False
    """Whether the ratio is too high, so that the arm above the line is the slow one."""

    @property
    def is_outside(self) -> bool:
        return self.p_value < 1

    @property
    def is_suspicious(self) -> bool:
        return self.p_value <= SUSPICIOUS


def judge_means(tops: Sequence[float], bottoms: Sequence[float], low: float, high: float) -> Means:
    """Whether the mean of ``tops`` over the mean of ``bottoms``, both times of the same pairs, lies in the threshold.

    The p-value is the probability of means so far outside for arms exactly on the bound.
    """
    ratio = math.fsum(tops) / math.fsum(bottoms)
    if ratio > high:
        excess = [top - high * bottom for top, bottom in zip(tops, bottoms, strict=True)]
        return Means(ratio, p_value_of(excess), is_top_slow=True)
    if ratio < low:
        return Means(ratio, p_value_of([low * bottom - top for top, bottom in zip(tops, bottoms, strict=True)]))
    return Means(ratio, 1.0)


def p_value_of(differences: Sequence[float]) -> float:
    """The probability that swapping the arms in random pairs, each by a fair coin, gives a sum at least as large.

    Swapping pairs changes the signs of their differences. The sum does not fall if the swapped ones sum to zero or
    less. The sums of all subsets are counted at once, as coefficients of a polynomial: the number ``counts`` has one
    digit of ``width`` bits for each sum.
    """
    largest = max(map(abs, differences), default=0.0)
    if largest == 0:
        return 1.0
    steps = [math.floor(difference / largest * GRID) for difference in differences]
    width, counts = len(steps) + 2, 1
    for step in steps:
        counts += counts << (width * abs(step))
    # A negative difference is left out of the swapped ones as often as it is among them, so it counts where it is out.
    num_sums = 1 - sum(step for step in steps if step < 0)
    digits = counts & ((1 << (width * num_sums)) - 1)
    return digits % ((1 << width) - 1) / 2 ** len(steps)


def describe_stalls(arm: str, seconds: Sequence[float], means: Means) -> str:
    """``stalls: 11 of 40 samples of arm fast took 4.8 times its median; the ratio of the means is 0.46``."""
    middle = median_ratio(seconds)
    slow = [value / middle for value in seconds if value > MIN_FACTOR * middle]
    by_means = f"the ratio of the means is {means.ratio:.3g}"
    if not slow:
        return f"{by_means}, outside the threshold: arm {arm} is slower on average than its median shows"
    factor = f"{median_ratio(slow):.2g} times its median"
    return f"stalls: {len(slow)} of {len(seconds)} samples of arm {arm} took {factor}; {by_means}"
