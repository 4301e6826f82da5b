"""When a run saves its checkpoints, and which batches it needs no more then."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from grpo_core.config import ScheduleConfig
from grpo_core.ledger import spans
from grpo_core.schedule.buffer.buffer import RolloutBuffer
from grpo_core.schedule.stack import Stack
from grpo_core.training.checkpoint.checkpoint import save_checkpoint
from grpo_core.training.checkpoint.random_state import RandomState

MAX_COST = 0.02
"""Share of a run's time that checkpoints by time may take."""


class CheckpointClock:
    """Says after which steps a checkpoint is due. Times are seconds on any one clock."""

    def __init__(self, schedule: ScheduleConfig, saved_at_s: float | None, evaluated_every_steps: int = 0) -> None:
        """``saved_at_s``: since when there is a checkpoint, None where there is none. What is evaluated is saved, for
        it may be the best one."""
        self._evaluated_every_steps = evaluated_every_steps
        self._every_steps = schedule.checkpoint_every_steps
        self._every_s = schedule.checkpoint_every_s
        self._saved_at_s = saved_at_s
        self._cost_s = 0.0

    def is_due(self, step: int, now_s: float) -> bool:
        """Whether a checkpoint is due after ``step``: the first one, one by count, or one by time."""
        if self._saved_at_s is None or step % self._every_steps == 0:
            return True
        if self._evaluated_every_steps and step % self._evaluated_every_steps == 0:
            return True
        return now_s - self._saved_at_s >= max(self._every_s, self._cost_s / MAX_COST)

    def saved(self, began_s: float, ended_s: float) -> None:
        """A checkpoint was saved from ``began_s`` to ``ended_s``."""
        self._saved_at_s, self._cost_s = ended_s, ended_s - began_s


class Checkpoints:
    """Saves the checkpoints of a run. A batch is removed once a checkpoint includes its step."""

    def __init__(
        self, stack: Stack, *, enabled: bool, resumed: bool, on_saved: Callable[[Path], None] | None = None
    ) -> None:
        self.newest: Path | None = None
        self._on_saved = on_saved
        self._stack = stack
        self._enabled = enabled
        self._clock = CheckpointClock(
            stack.config.schedule, time.monotonic() if resumed else None, stack.config.evaluation.every_steps
        )
        self._unsaved: RandomState | None = None  # of the last step, while no checkpoint holds it

    def step_done(self, buffer: RolloutBuffer, random_state: RandomState) -> None:
        """Save a checkpoint if one is due; ``random_state`` is from the end of the step."""
        self._unsaved = random_state
        if not self._enabled:
            buffer.forget_trained()
        elif self._clock.is_due(self._stack.trainer.version, time.monotonic()):
            self.save_last(buffer)

    def save_last(self, buffer: RolloutBuffer) -> None:
        """Save the last finished step, unless it is saved already.

        Raises:
            HomeError: the checkpoint cannot be written.
        """
        if not self._enabled or self._unsaved is None:
            return
        began_s = time.monotonic()
        config = self._stack.config
        with spans.CHECKPOINT:
            self._stack.store.wait()  # a checkpoint's version is on disk before it
            self.newest = save_checkpoint(
                self._stack.checkpoint_folder,
                self._stack.trainer,
                config.model_dump(mode="json"),
                random_state=self._unsaved,
                keep_last=config.schedule.keep_checkpoints,
                rows=self._stack.rows,
            )
            self._unsaved = None
            if self._on_saved is not None:
                self._on_saved(self.newest)
        buffer.forget_trained()
        self._clock.saved(began_s, time.monotonic())
