"""What ``train`` reports: each finished step, and at its end the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grpo_core.types import RolloutStats, StepMetrics


@dataclass(frozen=True, slots=True)
class StepReport:
    """One finished step, as the schedule saw it."""

    metrics: StepMetrics
    rollout: RolloutStats
    policy_lag_steps: int
    buffer_depth: int  # finished batches that waited when the step took its own, itself included
    step_s: float  # training and publishing, without the wait for a batch
    publish_ms: float
    finished_at_s: float  # on the monotonic clock


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. ``interrupted`` when it was asked to stop before its last step, by ``stop_signal``."""

    reports: tuple[StepReport, ...]  # empty without ``keep_reports``
    duration_s: float
    checkpoint: Path | None
    interrupted: bool
    num_stale_dropped: int
    stop_signal: int | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)  # of the last step; docs/metrics.md defines them
    num_steps: int = 0  # that were made now


OnStep = Callable[[StepReport], None]
