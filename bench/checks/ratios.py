"""The on-policy ratio: how far sampler, trainer and ``transformers`` are from giving the same tokens the same
probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from grpo_core.rollout.canaries.reference import score
from grpo_core.types import Batch, Float32, RolloutStats

from .versions import publish_next

if TYPE_CHECKING:
    from grpo_core.schedule.stack import LocalStack
    from grpo_core.training.forward.packing import PackedBatch
    from grpo_core.training.objective.objective import LossTerms
    from grpo_core.types import Completion

    from .plain_policy import PlainPolicy


def ratio_error(stack: LocalStack, plain: PlainPolicy, *, plays_on: bool = False) -> float:
    """The largest distance from 1 of any ratio in one on-policy step, with an adapter that changes every answer.

    The trainer's own extremes are held to it, and for every chosen token the ratios of sampler to trainer and to
    ``plain``. The batch has the first turn of each episode, or all turns with ``plays_on``.
    """
    weights = plain.merged(publish_next(stack))
    version = stack.trainer.version
    stack.collector.use_version(version)
    batch = stack.collector.collect(version) if plays_on else first_turns(stack, version)
    learnt: dict[int, list[float]] = {}

    def see(packed: PackedBatch, terms: LossTerms) -> None:
        for member, logprob in zip(packed.members.tolist(), terms.logprobs.tolist(), strict=True):
            learnt.setdefault(member, []).append(logprob)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack.trainer, "_on_micro_batch", see)
        metrics = stack.trainer.step(batch)
    extremes = (metrics.ratio_min, metrics.ratio_max, metrics.mismatch_ratio_min, metrics.mismatch_ratio_max)
    errors = [abs(ratio - 1) for ratio in extremes]
    turns = [turn for group in batch.groups for trajectory in group.trajectories for turn in trajectory.turns]
    for index, turn in enumerate(turns):
        errors.append(_distance(turn, np.array(learnt[index], dtype=np.float32)))
        expected = score(plain.logits(turn.prompt_ids, turn.completion_ids, weights).cpu().numpy(), turn)
        errors.append(_distance(turn, expected[turn.completion_mask]))
    return float(np.max(errors))


def first_turns(stack: LocalStack, version: int) -> Batch:
    """A batch of episodes that have only begun."""
    episodes = stack.collector.start(version)
    stack.collector.play_round(episodes, version)
    return Batch(version, version, stack.collector.groups(episodes, version), RolloutStats(1.0, 0, 0, 0, 0))


def _distance(turn: Completion, logprobs: Float32) -> float:
    """From 1, of the ratio of ``logprobs`` [C] of the chosen tokens to the sampler's; infinite where some lack."""
    sampled = turn.sampling_logprobs[turn.completion_mask]
    if len(sampled) != len(logprobs):
        return np.inf
    return float(np.abs(np.expm1(logprobs - sampled)).max())
