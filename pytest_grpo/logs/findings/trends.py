"""Does a quantity drift over a run, or jump? The verdict on each, with the interval that decides."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_grpo.logs.findings.blocks import MIN_STEPS, Blocks, Interval, level, too_alike, trend
from pytest_grpo.logs.findings.shifts import find_shifts
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.vocabulary.quantities import Quantity


class Verdict(enum.StrEnum):
    """How a quantity changed over a run."""

    DRIFTS = "drifts"
    """It gets worse bit by bit."""
    SHIFTS = "shifts"
    """It got worse at once, for a while at least."""
    IMPROVES = "improves"
    STEADY = "steady"
    """A change of more than the tolerance is ruled out, or no value lies further from another."""
    UNCLEAR = "unclear"

    @property
    def is_bad(self) -> bool:
        return self in (Verdict.DRIFTS, Verdict.SHIFTS)


@dataclass(frozen=True, slots=True)
class Shift:
    """From ``step`` on, the level is another one. ``change`` is a fraction or a difference, as the quantity's."""

    step: int
    before: float
    after: float
    change: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Trend:
    """``change`` is that over all judged steps: 0.05 is 5 % more, or 0.05 more where the quantity is no ratio.

    With ``shifts`` there is none: a straight line does not describe the run. The ends of ``center`` are NaN where there
    is no interval.
    """

    quantity: Quantity
    num_values: int
    verdict: Verdict
    center: Interval | None = None
    change: Interval | None = None
    change_per_100: float = math.nan
    shifts: tuple[Shift, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Ratios are judged as logs, differences as they are."""

    quantity: Quantity

    def apply(self, value: float) -> float:
        return math.log(value) if self.quantity.is_ratio else value

    def undo(self, value: float) -> float:
        return math.exp(value) if self.quantity.is_ratio else value

    def center(self, interval: Interval) -> Interval:
        return _map(interval, self.undo)

    def change(self, difference: float) -> float:
        return math.expm1(difference) if self.quantity.is_ratio else difference


def judge_trend(log: RunLog, quantity: Quantity, alpha: float, tolerance: float) -> Trend:
    """The trend of one column. Both its trend and its shifts are false with probability ``alpha`` at most."""
    scale = _Scale(quantity)
    pairs = [
        (step, value)
        for step, value in zip(log.steps, log.columns[quantity], strict=True)
        if math.isfinite(value) and (value > 0 or not quantity.is_ratio)
    ]
    if len(pairs) < MIN_STEPS:
        return Trend(quantity, len(pairs), Verdict.UNCLEAR, reason=f"{len(pairs)} values; {MIN_STEPS} are needed")
    steps, values = [step for step, _ in pairs], [scale.apply(value) for _, value in pairs]
    middle = statistics.median(values) if quantity.is_ratio else statistics.fmean(values)
    center = Interval(scale.undo(middle), math.nan, math.nan)
    if len(set(values)) == 1:
        return Trend(quantity, len(pairs), Verdict.STEADY, center, Interval(0.0, 0.0, 0.0), 0.0)
    least = tolerance if quantity.is_ratio else tolerance * abs(middle)
    blocks = Blocks.of(steps, values, is_robust=quantity.is_ratio)
    if blocks is None:
        if scale.change(max(values) - min(values)) <= least:
            return Trend(quantity, len(pairs), Verdict.STEADY, center)
        return Trend(quantity, len(pairs), Verdict.UNCLEAR, center, reason=too_alike(values))
    slope = trend(blocks, alpha)
    change = _map(slope, lambda per_step: scale.change(per_step * (steps[-1] - steps[0])))
    shifts = _shifts(scale, blocks, steps, values, alpha, least)
    edges = [edge for edge, _ in shifts]
    return Trend(
        quantity,
        len(pairs),
        _verdict(quantity, change, [shift for _, shift in shifts], least),
        scale.center(level(blocks, edges, alpha)),
        None if shifts else change,
        math.nan if shifts else scale.change(100 * slope.value),
        tuple(shift for _, shift in shifts),
    )


def _verdict(quantity: Quantity, change: Interval, shifts: Sequence[Shift], least: float) -> Verdict:
    if shifts:
        is_worse = any(shift.change * quantity.worse_side > 0 for shift in shifts)
        return Verdict.SHIFTS if is_worse else Verdict.IMPROVES
    if -least <= change.low and change.high <= least:
        return Verdict.STEADY
    if change.low <= 0 <= change.high:
        return Verdict.UNCLEAR
    return Verdict.DRIFTS if change.value * quantity.worse_side > 0 else Verdict.IMPROVES


def _shifts(
    scale: _Scale, blocks: Blocks, steps: Sequence[int], values: Sequence[float], alpha: float, least: float
) -> list[tuple[int, Shift]]:
    """The shifts by more than ``least``, each with the block that it begins at and the step that divides best."""
    splits = find_shifts(blocks, alpha)
    edges = [split.index for split in splits]
    levels = [statistics.median(blocks.centers[start:end]) for start, end in pairwise([0, *edges, len(blocks.centers)])]
    ends, found = [*blocks.first_steps, steps[-1]], []
    for split, (before, after) in zip(splits, pairwise(levels), strict=True):
        change = scale.change(after - before)
        if abs(change) > least:
            place = _place(steps, values, (ends[split.index - 1], ends[split.index + 1]), before, after)
            shift = Shift(steps[place], scale.undo(before), scale.undo(after), change, split.p_value)
            found.append((split.index, shift))
    return found


def _place(steps: Sequence[int], values: Sequence[float], between: tuple[int, int], before: float, after: float) -> int:
    """Where the values stop to be nearer to ``before``: it lies in the blocks on either side of the split."""
    places = [place for place, step in enumerate(steps) if between[0] <= step <= between[1]]
    gains = {}
    total = 0.0
    for place in places:
        gains[place] = total
        total += abs(values[place] - after) - abs(values[place] - before)
    return max(gains, key=lambda place: gains[place])


def _map(interval: Interval, function: Callable[[float], float]) -> Interval:
    return Interval(function(interval.value), function(interval.low), function(interval.high))
