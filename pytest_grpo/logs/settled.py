"""A run without the steps in which it warms up: after its start, and after each resume."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, replace

import pytest

from pytest_grpo.logs.findings.blocks import MIN_STEPS
from pytest_grpo.logs.run_log import RunLog

WARM_UP_STEPS = 3
"""Compiled code, graphs, caches and allocators settle in the first steps of a process."""


@dataclass(frozen=True, slots=True)
class Settled:
    """``log`` has the steps that are judged, ``warm_up`` those that were left out."""

    log: RunLog
    warm_up: tuple[int, ...]


def settle(log: RunLog, num_warm_up: int) -> Settled:
    """Leave out ``num_warm_up`` logged steps from each start on.

    Raises:
        pytest.UsageError: too few steps are left to judge anything.
    """
    places: set[int] = set()
    for start in log.starts:
        first = bisect_left(log.steps, start)
        places.update(range(first, min(first + num_warm_up, len(log.steps))))
    left = len(log.steps) - len(places)
    if left < MIN_STEPS:
        raise pytest.UsageError(
            f"{log.name}: {left} logged steps without the {len(places)} of warm-up; {MIN_STEPS} are needed: "
            "judge a longer run"
        )
    return Settled(_without(log, places), tuple(log.steps[place] for place in sorted(places)))


def at_steps(log: RunLog, steps: Collection[int]) -> RunLog:
    """Only these steps of ``log``."""
    return _without(log, {place for place, step in enumerate(log.steps) if step not in steps})


def _without(log: RunLog, places: Collection[int]) -> RunLog:
    kept = [place for place in range(len(log.steps)) if place not in places]
    return replace(
        log,
        steps=tuple(log.steps[place] for place in kept),
        columns={quantity: tuple(column[place] for place in kept) for quantity, column in log.columns.items()},
    )
