"""Rows of a gate whose step is as slow as a test says."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pytest_grpo.baseline.files import Baseline
from pytest_grpo.types import Row

NODEID = "bench/test_phase3_trainer.py::test_step"
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)

Store = Callable[..., list[Baseline]]


def row(step_s: float, metric: str = "step_speedup", plain_s: float = 0.4) -> Row:
    """``step`` against ``plain``, and an arm ``reference`` that takes 0.1 s."""
    arms = {"step": step_s, "plain": plain_s, "reference": 0.1}
    return Row(
        metric=metric,
        phase=3,
        kind="at_least",
        bound_low=2.0,
        bound_high=None,
        threshold=">= 2",
        source="file",
        unit="",
        verdict="pass",
        reason="",
        measured=plain_s / step_s,
        device="cpu",
        num_pairs=8,
        ratios=[plain_s / step_s] * 8,
        quantity="seconds",
        arms={arm: {"seconds": [seconds] * 8} for arm, seconds in arms.items()},
    )


def noisy(levels: Sequence[float], spread: float = 0.01, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [level * (1 + rng.gauss(0.0, spread)) for level in levels]
