"""Two runs: how the same steps differ. They are no paired measurement, so the spread between runs counts, too.

Steps of one number are compared, because lengths and rewards change as a run learns. Their ratios are cut into blocks
(``findings/blocks.py``). That says how these two runs differ, and not why: machine, neighbours and the order of data
differ as well. The verdict therefore widens the interval by how far two runs of one code differ, which a log cannot
tell.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import pytest

from pytest_grpo.baseline.session_spread import ASSUMED_SPREAD
from pytest_grpo.logs.findings.blocks import MAX_BLOCKS, MIN_STEPS, Blocks, Interval, level, too_alike
from pytest_grpo.logs.findings.shifts import find_shifts
from pytest_grpo.logs.findings.stalls import find_stalls
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.settled import Settled, at_steps
from pytest_grpo.logs.vocabulary.quantities import STEP, Quantity
from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA

DEFAULT_RUN_SPREAD = ASSUMED_SPREAD


class Outcome(enum.StrEnum):
    """How one run stands to the other."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "same"
    UNCLEAR = "unclear"
    SHOWN = "-"
    """No verdict: one run of each says nothing about it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``change`` of this run over the other one: a fraction, or a difference where the quantity is no ratio.

    Its interval is that of these two runs alone. ``here`` and ``there`` are levels.
    """

    quantity: Quantity
    here: float
    there: float
    change: Interval | None
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The quantities that both runs have, over ``steps``, which both have, too.

    Two runs of one code differ by a factor of up to ``exp(margin)``, if runs spread by ``run_spread``.
    """

    there: Settled
    steps: tuple[int, ...]
    differences: tuple[Difference, ...]
    stall_costs: tuple[float, float] | None
    """Of the step, here and there, as shares of the time: medians do not see stalls."""
    run_spread: float
    margin: float

    @property
    def is_bad(self) -> bool:
        return any(each.outcome is Outcome.WORSE for each in self.differences)


def compare_runs(
    here: Settled, there: Settled, quantities: Sequence[Quantity], tolerance: float, run_spread: float
) -> Comparison:
    """Compare those of ``quantities`` that both have. One that is called worse is not so with 1 % at most.

    Raises:
        pytest.UsageError: the runs have too few steps in common.
    """
    steps = tuple(sorted(set(here.log.steps) & set(there.log.steps)))
    if len(steps) < MIN_STEPS:
        raise pytest.UsageError(
            f"--against {there.log.name}: {len(steps)} steps in common with {here.log.name}, without the warm-up; "
            f"{MIN_STEPS} are needed: compare runs that logged the same steps"
        )
    mine, its = at_steps(here.log, set(steps)), at_steps(there.log, set(steps))
    both = [each for each in quantities if each in mine.columns and each in its.columns]
    judged = [each for each in both if each.is_ratio and not each.is_part]
    alpha = FAMILY_ALPHA / max(len(judged), 1)
    margin = NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(2) * run_spread
    differences = tuple(_difference(mine, its, each, alpha, tolerance, margin) for each in both)
    costs = (find_stalls(mine, STEP).cost, find_stalls(its, STEP).cost) if STEP in both else None
    return Comparison(there, steps, differences, costs, run_spread, margin)


def _difference(
    mine: RunLog, its: RunLog, quantity: Quantity, alpha: float, tolerance: float, margin: float
) -> Difference:
    found = [
        (step, here, there)
        for step, here, there in zip(mine.steps, mine.columns[quantity], its.columns[quantity], strict=True)
        if math.isfinite(here) and math.isfinite(there) and (not quantity.is_ratio or min(here, there) > 0)
    ]
    if len(found) < MIN_STEPS:
        reason = f"{len(found)} steps have it in both runs; {MIN_STEPS} are needed"
        return Difference(quantity, math.nan, math.nan, None, _undecided(quantity), reason)
    steps, here, there = zip(*found, strict=True)
    shown = _level(quantity, here), _level(quantity, there)
    changes = [math.log(a / b) if quantity.is_ratio else a - b for a, b in zip(here, there, strict=True)]
    blocks = Blocks.of(steps, changes, is_robust=quantity.is_ratio)
    if blocks is None:
        return Difference(quantity, *shown, None, _undecided(quantity), too_alike(changes))
    change = level(blocks, [split.index for split in find_shifts(blocks, alpha)], alpha)
    if not quantity.is_ratio:
        return Difference(quantity, *shown, change, Outcome.SHOWN)
    outcome, reason = _judge(quantity, change, tolerance, margin)
    shown_change = Interval(math.expm1(change.value), math.expm1(change.low), math.expm1(change.high))
    return Difference(quantity, *shown, shown_change, outcome, reason)


def _level(quantity: Quantity, values: Sequence[float]) -> float:
    """The mean of the centers of blocks, as the change is that of their ratios."""
    import numpy as np

    if not quantity.is_ratio:
        return statistics.fmean(values)
    parts = np.array_split(np.log(values), MAX_BLOCKS)
    return math.exp(statistics.fmean(float(np.median(part)) for part in parts))


def _undecided(quantity: Quantity) -> Outcome:
    return Outcome.UNCLEAR if quantity.is_ratio and not quantity.is_part else Outcome.SHOWN


def _judge(quantity: Quantity, change: Interval, tolerance: float, margin: float) -> tuple[Outcome, str]:
    """``change`` and its interval are logs. Their error and that between runs are independent.

    Memory does not depend on the machine's load, so that runs of one code do not spread.
    """
    if quantity.is_part:
        return Outcome.SHOWN, ""
    margin = 0.0 if quantity.unit == "bytes" else margin
    low = change.value - math.hypot(change.value - change.low, margin)
    high = change.value + math.hypot(change.high - change.value, margin)
    if -tolerance <= math.expm1(low) and math.expm1(high) <= tolerance:
        return Outcome.SAME, ""
    if low <= 0 <= high:
        is_real = not change.low <= 0 <= change.high
        between = f"two runs of one code may differ by {100 * math.expm1(margin):.2g} %"
        return Outcome.UNCLEAR, f"these two runs differ, but {between}" if is_real else "the interval spans 0"
    return Outcome.WORSE if change.value * quantity.worse_side > 0 else Outcome.BETTER, ""
