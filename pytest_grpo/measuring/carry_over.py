"""Carry-over: an arm that runs right after another one is not always as fast as alone.

In a settled round each arm is measured twice in a row. Its second sample follows its own run and counts; the first one,
compared with it, shows what the other arm left behind. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MIN_EFFECT = math.log1p(0.02)
"""Less is not worth a word."""
MIN_ROUNDS = 2
"""Settled rounds that are needed for a first estimate."""


@dataclass(frozen=True, slots=True)
class CarryOver:
    """By how much longer each arm takes right after the other one, as logs, with their standard error."""

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
    """From the log ratios of first over second sample, per arm. None with fewer than two settled rounds."""
    num_rounds = min(map(len, contrasts.values()), default=0)
    if num_rounds < MIN_ROUNDS:
        return None
    effects = {arm: math.fsum(values) / num_rounds for arm, values in contrasts.items()}
    squares = math.fsum((value - effects[arm]) ** 2 for arm, values in contrasts.items() for value in values)
    variance = squares / (len(contrasts) * (num_rounds - 1))
    return CarryOver(effects, math.sqrt(variance / num_rounds), num_rounds)
