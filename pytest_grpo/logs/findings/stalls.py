"""Stalls: steps that take far longer than the steps around them, what they cost, and in which part they stand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.vocabulary.quantities import Quantity
from pytest_grpo.measuring.statistics.stalls import MIN_FACTOR

CHANCE = 0.001
"""That normal noise makes a stall in a run, were its spread known. It is estimated, so it is about 1 %."""
_REACH = 10
"""Steps on each side that a step is compared with: a drift or a shift of the level is no stall."""
_TO_SD = 1.4826  # times the median absolute deviation, for normal values
_MOST = 0.5
"""A part that has more of the lost time than this is named."""
_MIN_PERIODIC = 3
CYCLE_STEPS = 10
"""Stalls that come more often than every so many steps, always, are how the loop works: TRL samples every few steps."""


@dataclass(frozen=True, slots=True)
class Stalls:
    """The stalls of ``quantity``. ``factor`` is their median, in medians of the steps around each.

    ``cost`` is what they took beyond those medians, as a share of the run's time. ``every`` is set when they are that
    many steps apart, ``part`` when one part of the step has most of the lost time.
    """

    quantity: Quantity
    num_steps: int
    steps: tuple[int, ...] = ()
    factor: float = math.nan
    cost: float = 0.0
    every: int | None = None
    part: str = ""

    @property
    def is_cycle(self) -> bool:
        return self.every is not None and self.every < CYCLE_STEPS


def find_stalls(log: RunLog, quantity: Quantity) -> Stalls:
    """Steps beyond 1.5 times the median around them, and beyond what the noise of the run explains."""
    places = [place for place, value in enumerate(log.columns[quantity]) if math.isfinite(value)]
    values = [log.columns[quantity][place] for place in places]
    around = _medians_around(values)
    logs = [math.log(value / middle) for value, middle in zip(values, around, strict=True)]
    spread = _TO_SD * statistics.median(map(abs, logs))
    limit = max(math.log(MIN_FACTOR), spread * NormalDist().inv_cdf(1 - CHANCE / len(values)))
    found = [number for number, value in enumerate(logs) if value > limit]
    if not found:
        return Stalls(quantity, len(values))
    stalled = [places[number] for number in found]
    lost_s = sum(values[number] - around[number] for number in found)
    steps = tuple(log.steps[place] for place in stalled)
    return Stalls(
        quantity,
        len(values),
        steps,
        factor=statistics.median(values[number] / around[number] for number in found),
        cost=lost_s / math.fsum(values),
        every=_period(steps),
        part=_slow_part(log, stalled, lost_s),
    )


def _medians_around(values: Sequence[float]) -> list[float]:
    """The median of the values within reach; at the ends of the run the reach goes further to the other side."""
    width, medians = 2 * _REACH + 1, []
    for place in range(len(values)):
        first = max(0, min(place - _REACH, len(values) - width))
        medians.append(statistics.median(values[first : first + width]))
    return medians


def _period(steps: Sequence[int]) -> int | None:
    distances = {after - before for before, after in pairwise(steps)}
    return distances.pop() if len(steps) >= _MIN_PERIODIC and len(distances) == 1 else None


def _slow_part(log: RunLog, stalled: Sequence[int], lost_s: float) -> str:
    for quantity in log.parts:
        column = [0.0 if math.isnan(value) else value for value in log.columns[quantity]]
        usual = statistics.median(column)
        if sum(column[place] - usual for place in stalled) > _MOST * lost_s:
            return quantity.name
    return ""
