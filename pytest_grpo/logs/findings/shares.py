"""Which share of the step each part has, and what the parts leave unaccounted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_grpo.logs.findings.blocks import Blocks, Interval, level
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.vocabulary.quantities import STEP, Quantity

MAX_BEYOND = 0.005
"""The parts may take this share longer than the step, because numbers in a log are rounded."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of all the time of the judged steps; the high end is infinite when the steps are too alike."""

    parts: tuple[tuple[Quantity, Interval], ...]
    unaccounted: Interval

    @property
    def is_beyond(self) -> bool:
        """Whether the parts take longer than the step: some of them run at a time, or outside of it."""
        return self.unaccounted.value < -MAX_BEYOND


def find_shares(log: RunLog, alpha: float) -> Shares | None:
    """None when the log has no parts. A part that a step does not log took no time in it."""
    if STEP not in log.columns or not log.parts:
        return None
    places = [place for place, value in enumerate(log.columns[STEP]) if math.isfinite(value)]
    steps = [log.steps[place] for place in places]
    step_s = [log.columns[STEP][place] for place in places]
    columns = {
        quantity: [
            0.0 if math.isnan(log.columns[quantity][place]) else log.columns[quantity][place] for place in places
        ]
        for quantity in log.parts
    }
    rest = [whole - math.fsum(parts) for whole, parts in zip(step_s, zip(*columns.values(), strict=True), strict=True)]
    parts = tuple((quantity, _above_0(_share(steps, column, step_s, alpha))) for quantity, column in columns.items())
    return Shares(parts, _share(steps, rest, step_s, alpha))


def _share(steps: Sequence[int], part_s: Sequence[float], step_s: Sequence[float], alpha: float) -> Interval:
    """The ratio of the sums. Its error is that of the mean of ``part - ratio x step`` (the linearised ratio)."""
    mean_s = math.fsum(step_s) / len(step_s)
    ratio = math.fsum(part_s) / math.fsum(step_s)
    values = [ratio + (part - ratio * whole) / mean_s for part, whole in zip(part_s, step_s, strict=True)]
    blocks = Blocks.of(steps, values, is_robust=False)
    if blocks is None:
        return Interval(ratio, -math.inf, math.inf)
    found = level(blocks, (), alpha)
    return Interval(ratio, ratio + found.low - found.value, ratio + found.high - found.value)


def _above_0(share: Interval) -> Interval:
    return Interval(share.value, max(share.low, 0.0), share.high)
