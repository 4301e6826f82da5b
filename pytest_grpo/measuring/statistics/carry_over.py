"""Carry-over: an arm that runs right after another one is not always as fast as alone.

In a doubled round each arm is measured twice in a row. Its second sample follows its own run and counts; the first one,
compared with it, shows what the other arm left behind. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_grpo.measuring.statistics.sign_test import median_ratio

MIN_EFFECT = math.log1p(0.02)
"""Less is not worth a word."""
MAX_ORDER_P = 0.001
"""Of a difference between pairs that begin with one arm and those that begin with the other."""
MIN_ROUNDS = 2
"""Settled rounds that are needed for a first estimate."""


@dataclass(frozen=True, slots=True)
class CarryOver:
    """How much longer each arm takes right after the other one, as logs, with their standard error."""

    effects: Mapping[str, float]
    error: float
    num_rounds: int

    @property
    def reach(self) -> float:
        """How far it may shift the log ratio: what was seen, and what was perhaps missed."""
        return sum(map(abs, self.effects.values())) + math.sqrt(2) * self._quantile * self.error

    @property
    def is_found(self) -> bool:
        """Whether one of the effects is clear and not tiny."""
        clear = max(MIN_EFFECT, 1.5 * self._quantile * self.error)
        return any(abs(effect) > clear for effect in self.effects.values())

    @property
    def _quantile(self) -> float:
        """About the 97.5 % quantile of Student's t, a little above."""
        return 2 + 4 / (2 * (self.num_rounds - 1))

    def describe(self) -> str:
        """``carry-over: arm fast takes 15 % longer right after the other arm``."""
        arm, effect = max(self.effects.items(), key=lambda item: abs(item[1]))
        percent = f"{100 * abs(math.expm1(effect)):.0f} %"
        return f"carry-over: arm {arm} takes {percent} {'longer' if effect > 0 else 'less'} right after the other arm"


def find_carry_over(contrasts: Mapping[str, Sequence[float]]) -> CarryOver | None:
    """From the log ratios of first over second sample, per arm. None with fewer than two doubled rounds."""
    num_rounds = min(map(len, contrasts.values()), default=0)
    if num_rounds < MIN_ROUNDS:
        return None
    effects = {arm: math.fsum(values) / num_rounds for arm, values in contrasts.items()}
    squares = math.fsum((value - effects[arm]) ** 2 for arm, values in contrasts.items() for value in values)
    variance = squares / (len(contrasts) * (num_rounds - 1))
    return CarryOver(effects, math.sqrt(variance / num_rounds), num_rounds)


def describe_order_effect(ratios: Sequence[float], first_arms: Sequence[str]) -> str:
    """``pairs that begin with arm fast give 1.2, the others 1.09``; empty unless that is clear and not tiny.

    The random order cancels it, at the price of pairs. Fisher's exact test says how likely it is that the pairs that
    begin with one arm have so many, or so few, of the ratios above the median.
    """
    arm = first_arms[0]
    middle = median_ratio(ratios)
    beginning = [ratio for ratio, first in zip(ratios, first_arms, strict=True) if first == arm]
    others = [ratio for ratio, first in zip(ratios, first_arms, strict=True) if first != arm]
    if not others:
        return ""
    num_above, num_mine = sum(ratio > middle for ratio in ratios), sum(ratio > middle for ratio in beginning)
    chances = [
        math.comb(len(beginning), mine) * math.comb(len(others), num_above - mine) / math.comb(len(ratios), num_above)
        for mine in range(num_above + 1)
    ]
    p_value = 2 * min(math.fsum(chances[num_mine:]), math.fsum(chances[: num_mine + 1]))
    ours, theirs = median_ratio(beginning), median_ratio(others)
    if p_value > MAX_ORDER_P or abs(math.log(ours / theirs)) < MIN_EFFECT:
        return ""
    return f"pairs that begin with arm {arm} give {ours:.3g}, the others {theirs:.3g}"
