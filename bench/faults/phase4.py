"""Faults that phase 4 must detect: ignored limits, lost and repeated batches, and rollouts that wait for training."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.faults.fault import WRONG_ANSWERS, Fault

if TYPE_CHECKING:
    from grpo_core.rollout.play.collector import Collector
    from grpo_core.schedule.buffer import Lease, RolloutBuffer, SlotGrant
    from grpo_core.training.trainer import Trainer
    from grpo_core.types import Batch, StepMetrics

VERSIONS_PER_SWAP = 4
POLL_S = 0.25


def lag_budget_ignored(patch: pytest.MonkeyPatch) -> None:
    """The sampler takes up only every fourth version, to save swaps, and the buffer no longer drops old batches."""
    from grpo_core.schedule.buffer import RolloutBuffer

    def trainer_version(self: RolloutBuffer) -> int:
        return self._trainer_version // VERSIONS_PER_SWAP * VERSIONS_PER_SWAP

    patch.setattr(RolloutBuffer, "trainer_version", property(trainer_version))
    patch.setattr(RolloutBuffer, "_drop_stale", lambda self: None)


def buffer_never_deeper_than_one(patch: pytest.MonkeyPatch) -> None:
    """The buffer holds one batch, whatever its depth is set to."""
    _patch_buffer(patch, depth=1)


def depth_counts_trained_batches(patch: pytest.MonkeyPatch) -> None:
    """The depth counts the batches that were trained on, too."""
    from grpo_core.schedule.buffer import RolloutBuffer

    original = RolloutBuffer.take

    def take(self: RolloutBuffer) -> Lease | None:
        lease = original(self)
        if lease is not None:
            lease = self._lease = replace(lease, depth_before=lease.depth_before + self._trainer_version)
        return lease

    patch.setattr(RolloutBuffer, "take", take)


def last_step_lost(patch: pytest.MonkeyPatch) -> None:
    """The buffer ends a run one batch too early."""
    _patch_buffer(patch, num_missing=1)


def sides_take_turns(patch: pytest.MonkeyPatch) -> None:
    """Rollouts and training share a lock: one waits while the other works."""
    from grpo_core.rollout.play.collector import Collector
    from grpo_core.training.trainer import Trainer

    collect_freely, step_freely = Collector.collect, Trainer.step
    lock = threading.Lock()

    def collect(self: Collector, index: int) -> Batch:
        with lock:
            return collect_freely(self, index)

    def step(self: Trainer, batch: Batch) -> StepMetrics:
        with lock:
            return step_freely(self, batch)

    patch.setattr(Collector, "collect", collect)
    patch.setattr(Trainer, "step", step)


def buffer_polls(patch: pytest.MonkeyPatch) -> None:
    """The rollout side looks every 250 ms whether it may go on, instead of being woken."""
    from grpo_core.schedule.buffer import RolloutBuffer

    original = RolloutBuffer.wait_for_slot

    def wait_for_slot(self: RolloutBuffer) -> SlotGrant | None:
        time.sleep(POLL_S)
        return original(self)

    patch.setattr(RolloutBuffer, "wait_for_slot", wait_for_slot)


def seeds_follow_the_version(patch: pytest.MonkeyPatch) -> None:
    """Batches are seeded by the policy's version, so that two batches of one version are the same one."""
    from grpo_core.rollout.play.collector import Collector

    original = Collector.collect

    def collect(self: Collector, index: int) -> Batch:
        return replace(original(self, self._engine.policy_version), index=index)

    patch.setattr(Collector, "collect", collect)


def _patch_buffer(patch: pytest.MonkeyPatch, *, depth: int | None = None, num_missing: int = 0) -> None:
    """Build every buffer with another ``depth``, or for fewer batches."""
    from grpo_core.schedule.buffer import RolloutBuffer

    original, forced_depth = RolloutBuffer.__init__, depth

    def init(
        self: RolloutBuffer,
        folder: Path | None,
        depth: int,
        max_policy_lag_steps: int,
        num_batches: int,
        first_step: int = 0,
        recorded: Collection[int] = (),
    ) -> None:
        num_batches -= num_missing
        original(self, folder, forced_depth or depth, max_policy_lag_steps, num_batches, first_step, recorded)

    patch.setattr(RolloutBuffer, "__init__", init)


FAULTS = (
    Fault(4, ("policy_lag_steps_over_budget",), lag_budget_ignored),
    Fault(4, ("buffer_depth_error",), buffer_never_deeper_than_one),
    Fault(4, ("buffer_depth_error",), depth_counts_trained_batches),
    Fault(4, ("steps_missing",), last_step_lost),
    Fault(4, ("overlapped_over_slower_side",), sides_take_turns),
    Fault(4, ("overlapped_over_slower_side",), buffer_polls),
    Fault(4, ("overlapped_over_slower_side",), seeds_follow_the_version, WRONG_ANSWERS),
)
