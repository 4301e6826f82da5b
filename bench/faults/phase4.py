"""Faults that phase 4 must detect: ignored limits, lost and repeated batches, and rollouts that wait for training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.faults.fault import WRONG_ANSWERS, Fault

if TYPE_CHECKING:
    from grpo_core.rollout.play.collector import Collector
    from grpo_core.rollout.play.episode import Episode
    from grpo_core.rollout.protocol import GenerationRequest
    from grpo_core.schedule.buffer.buffer import Lease, RolloutBuffer
    from grpo_core.training.forward.packing import Pack
    from grpo_core.training.trainer import Trainer
    from grpo_core.types import Batch, Completion, Group, Packing, StepMetrics

VERSIONS_PER_SWAP = 4
POLL_S = 0.25


def lag_budget_ignored(patch: pytest.MonkeyPatch) -> None:
    """The sampler takes up only every fourth version, to save swaps, and the buffer no longer drops old batches."""
    from grpo_core.schedule.buffer.buffer import RolloutBuffer

    def trainer_version(self: RolloutBuffer) -> int:
        return self._trainer_version // VERSIONS_PER_SWAP * VERSIONS_PER_SWAP

    patch.setattr(RolloutBuffer, "trainer_version", property(trainer_version))
    patch.setattr(RolloutBuffer, "_drop_stale", lambda self: None)


def buffer_never_deeper_than_one(patch: pytest.MonkeyPatch) -> None:
    """The buffer holds one batch, whatever its depth is set to."""
    _patch_buffer(patch, depth=1)


def depth_counts_trained_batches(patch: pytest.MonkeyPatch) -> None:
    """The depth counts the batches that were trained on, too."""
    from grpo_core.schedule.buffer.buffer import RolloutBuffer

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
    from grpo_core.schedule.buffer.buffer import RolloutBuffer

    original = RolloutBuffer.wait_for_slot

    def wait_for_slot(self: RolloutBuffer) -> int | None:
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
    from grpo_core.schedule.buffer.buffer import RolloutBuffer

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


def siblings_share_a_seed(patch: pytest.MonkeyPatch) -> None:
    """The seed of an answer leaves out which sibling it is of: all siblings are one sample."""
    from grpo_core.rollout.play import collector

    original = collector.turn_seed

    def turn_seed(run_seed: int, index: int, episode: Episode, place: int) -> int:
        return original(run_seed, index, replace(episode, sample=0), place)

    patch.setattr(collector, "turn_seed", turn_seed)


def batches_share_their_seeds(patch: pytest.MonkeyPatch) -> None:
    """The seed of an answer leaves out its batch: while the policy stands still, all batches are one."""
    from grpo_core.rollout.play import collector

    original = collector.turn_seed
    patch.setattr(collector, "turn_seed", lambda run_seed, index, *where: original(run_seed, 0, *where))


def longest_episode_dropped(patch: pytest.MonkeyPatch) -> None:
    """The longest trajectory of each group is left out of the batch, to bound the memory."""
    _change_groups(patch, _without_longest)


def rewards_in_another_order(patch: pytest.MonkeyPatch) -> None:
    """Each sibling gets the reward of the one before."""
    _change_groups(patch, _with_rewards_rotated)


def failures_not_reported(patch: pytest.MonkeyPatch) -> None:
    """An episode that fails leaves no event."""
    from grpo_core.schedule import rollout_thread

    patch.setattr(rollout_thread, "emit_failures", lambda failures, telemetry: None)


def last_turn_left_out(patch: pytest.MonkeyPatch) -> None:
    """A trajectory ends before its last turn, as if the turn that ends an episode had none."""
    _change_groups(
        patch,
        lambda group: replace(
            group, trajectories=tuple(replace(each, turns=each.turns[:-1]) for each in group.trajectories)
        ),
    )


def long_completions_not_packed(patch: pytest.MonkeyPatch) -> None:
    """The trainer leaves the longest completion of a batch out of its passes, because it does not fit."""
    import numpy as np

    from grpo_core.training.batches import micro_batches

    original = micro_batches.pack_completions

    def pack_completions(completions: Sequence[Completion], packing: Packing) -> list[Pack]:
        longest = max(len(each.completion_ids) for each in completions)
        fitting = [
            replace(each, completion_mask=np.zeros_like(each.completion_mask))
            if len(each.completion_ids) == longest
            else each
            for each in completions
        ]
        return original(fitting, packing)

    patch.setattr(micro_batches, "pack_completions", pack_completions)


def answers_end_half_way(patch: pytest.MonkeyPatch) -> None:
    """The engine ends a free answer at half of the tokens that it may have."""
    from grpo_core.rollout import sequence

    original = sequence.completion_budget

    def completion_budget(request: GenerationRequest) -> int:
        budget = original(request)
        return budget // 2 if request.constraint is None else budget

    patch.setattr(sequence, "completion_budget", completion_budget)


def tail_of_answers_masked(patch: pytest.MonkeyPatch) -> None:
    """The second half of each completion reaches the trainer as if it had been forced."""
    from grpo_core.rollout.play.episode import Episode

    original = Episode.play

    def play(self: Episode, actions: Mapping[str, str]) -> None:
        original(self, actions)
        for turns in self.turns.values():
            mask = turns[-1].completion_mask.copy()
            mask[(len(mask) + 1) // 2 :] = False
            turns[-1] = replace(turns[-1], completion_mask=mask)

    patch.setattr(Episode, "play", play)


def _change_groups(patch: pytest.MonkeyPatch, change: Callable[[Group], Group]) -> None:
    """Put what ``change`` makes of them into batches."""
    from grpo_core.rollout.play.collector import Collector

    original = Collector.collect

    def collect(self: Collector, index: int) -> Batch:
        batch = original(self, index)
        return replace(batch, groups=tuple(map(change, batch.groups)))

    patch.setattr(Collector, "collect", collect)


def _without_longest(group: Group) -> Group:
    lengths = [sum(turn.num_tokens for turn in each.turns) for each in group.trajectories]
    kept = [each for place, each in enumerate(group.trajectories) if place != lengths.index(max(lengths))]
    return replace(group, trajectories=tuple(kept))


def _with_rewards_rotated(group: Group) -> Group:
    rewards = [each.reward for each in group.trajectories]
    rotated = zip(group.trajectories, [rewards[-1], *rewards[:-1]], strict=True)
    return replace(group, trajectories=tuple(replace(each, reward=reward) for each, reward in rotated))


def learning_rate_falls_at_once(patch: pytest.MonkeyPatch) -> None:
    """A learning rate that falls begins near its end: at a fiftieth of what was set."""
    from grpo_core.training.optimizer.learning_rate import LearningRateSchedule

    original = LearningRateSchedule.share

    def share(self: LearningRateSchedule, index: int) -> float:
        return original(self, index) * (1.0 if self._course == "constant" else 0.02)

    patch.setattr(LearningRateSchedule, "share", share)


FAULTS = (
    Fault(4, ("policy_lag_steps_over_budget",), lag_budget_ignored),
    Fault(4, ("buffer_depth_error",), buffer_never_deeper_than_one),
    Fault(4, ("buffer_depth_error",), depth_counts_trained_batches),
    Fault(4, ("steps_missing",), last_step_lost),
    Fault(4, ("overlapped_over_slower_side",), sides_take_turns),
    Fault(4, ("overlapped_over_slower_side",), buffer_polls),
    Fault(4, ("overlapped_over_slower_side",), seeds_follow_the_version, WRONG_ANSWERS),
    Fault(4, ("identical_siblings",), siblings_share_a_seed),
    Fault(4, ("identical_siblings",), batches_share_their_seeds),
    Fault(4, ("episodes_missing",), longest_episode_dropped),
    Fault(4, ("episodes_missing",), rewards_in_another_order),
    Fault(4, ("episodes_missing",), failures_not_reported),
    Fault(4, ("episodes_missing",), last_turn_left_out),
    Fault(4, ("steps_to_reward",), learning_rate_falls_at_once),
    Fault(4, ("lengths_wrong",), long_completions_not_packed),
    Fault(4, ("lengths_wrong",), answers_end_half_way),
    Fault(4, ("lengths_wrong",), tail_of_answers_masked),
)
