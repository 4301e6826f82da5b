"""Runs whose columns a test makes up, and step times that remember (AR(1))."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.vocabulary.quantities import Quantity


def alike(num_steps: int, spread: float = 0.02, memory: float = 0.0, seed: int = 0) -> list[float]:
    """Logs of step times: normal with standard deviation ``spread``, of which a step keeps ``memory`` in the next."""
    rng = random.Random(seed)
    values = [rng.gauss(0.0, spread)]
    for _ in range(num_steps - 1):
        values.append(memory * values[-1] + math.sqrt(1 - memory**2) * rng.gauss(0.0, spread))
    return values


def times(
    num_steps: int, spread: float = 0.02, memory: float = 0.0, seed: int = 0, level_s: float = 2.0
) -> list[float]:
    """Seconds around ``level_s``."""
    return [level_s * math.exp(value) for value in alike(num_steps, spread, memory, seed)]


def waves(num_steps: int) -> list[float]:
    """Seconds that all follow from those before: nothing in them is independent."""
    return [2.0 + math.sin(2 * math.pi * step / num_steps) for step in range(num_steps)]


def run_of(
    columns: Mapping[Quantity, Sequence[float]], *, first_step: int = 1, starts: Sequence[int] = (), name: str = "run"
) -> RunLog:
    num_steps = len(next(iter(columns.values())))
    return RunLog(
        name=name,
        format="events of grpo_core",
        stack="grpo_core",
        steps=tuple(range(first_step, first_step + num_steps)),
        columns={quantity: tuple(column) for quantity, column in columns.items()},
        starts=tuple(starts) or (first_step,),
        notes=(),
    )
