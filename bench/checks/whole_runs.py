"""Whole training runs inside a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core.schedule.reports import TrainResult
    from grpo_core.schedule.stack import Stack
    from grpo_core.telemetry.events import Telemetry


def train_in_test(stack: Stack, telemetry: Telemetry) -> TrainResult:
    """As ``train``, without checkpoints. Signals are pytest's: Ctrl-C ends the session, not the run alone."""
    from grpo_core.schedule.interrupt import StopRequest
    from grpo_core.schedule.loop import train

    return train(stack, telemetry, save_checkpoints=False, stop=StopRequest())
