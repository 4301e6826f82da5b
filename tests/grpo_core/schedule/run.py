"""What the tests of a run look at: its losses and its threads, and no telemetry."""

from __future__ import annotations

import threading

from grpo_core.schedule.reports import TrainResult
from grpo_core.telemetry.events import Telemetry


def rollout_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rollout"]


def quiet() -> Telemetry:
    return Telemetry("run", [])


def losses(result: TrainResult) -> list[float]:
    return [report.metrics.loss for report in result.reports]
