"""What a gate asks: whether the ratio of two measured quantities lies in a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_grpo.measuring.sampling.rounds import Order, Round
from pytest_grpo.measuring.statistics.carry_over import CarryOver, describe_order_effect, find_carry_over
from pytest_grpo.measuring.statistics.sign_test import median_ratio
from pytest_grpo.measuring.statistics.stalls import Means, describe_stalls, judge_means

Values = Callable[[Round], tuple[float, float]]
"""The two quantities that are compared, of one round."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whether the ratio of ``values``, those of the arms ``names``, lies in [``low``, ``high``].

    Rates (``is_rate``) are the inverse of times: a slow arm has low ones.
    """

    names: tuple[str, str]
    values: Values
    low: float
    high: float
    is_rate: bool = False

    def ratios(self, rounds: Sequence[Round]) -> list[float]:
        """The ratio of each pair."""
        return [left / right for left, right in map(self.values, rounds)]

    def is_inside(self, ratio: float) -> bool:
        return self.low <= ratio <= self.high

    def margin(self, rounds: Sequence[Round]) -> float:
        """How far the log of the median is from the nearest bound."""
        middle = math.log(median_ratio(self.ratios(rounds)))
        return min(abs(middle - math.log(bound)) for bound in (self.low, self.high) if 0 < bound < math.inf)

    @property
    def num_bounds(self) -> int:
        return sum(0 < bound < math.inf for bound in (self.low, self.high))

    def means(self, rounds: Sequence[Round]) -> Means:
        """The ratio of the means, of times or of times per unit."""
        tops, bottoms = self._times(rounds)
        return judge_means(tops, bottoms, self.low, self.high)

    def describe_stalls(self, rounds: Sequence[Round], means: Means) -> str:
        """Which arm is slow how often, in words."""
        top, bottom = reversed(self.names) if self.is_rate else self.names
        tops, bottoms = self._times(rounds)
        return describe_stalls(*((top, tops) if means.is_top_slow else (bottom, bottoms)), means)

    def carry_over(self, rounds: Sequence[Round], orders: Sequence[Order]) -> CarryOver | None:
        """From the doubled ones of ``rounds``; None with fewer than two."""
        contrasts: dict[str, list[float]] = {name: [] for name in self.names}
        for taken, order in zip(rounds, orders, strict=True):
            if order.first_samples is None:
                continue
            for name, first, second in zip(
                self.names, self.values(order.first_samples), self.values(taken), strict=True
            ):
                contrasts[name].append(math.log(second / first if self.is_rate else first / second))
        return find_carry_over(contrasts)

    def order_effect(self, rounds: Sequence[Round], orders: Sequence[Order]) -> str:
        """How pairs that begin with one arm differ from the others, in words; empty when they do not."""
        firsts = [next(name for name in order.names if name in self.names) for order in orders]
        return describe_order_effect(self.ratios(rounds), firsts) if rounds else ""

    def _times(self, rounds: Sequence[Round]) -> tuple[list[float], list[float]]:
        """Above and below the line of the ratio."""
        lefts, rights = (list(side) for side in zip(*map(self.values, rounds), strict=True))
        if self.is_rate:
            return [1 / right for right in rights], [1 / left for left in lefts]
        return lefts, rights
