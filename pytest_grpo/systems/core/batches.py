"""Batches and log-probabilities between the systems' types and those of grpo_core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_grpo.systems.protocol import Completion, TrainBatch

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_core import types
    from pytest_grpo.systems.protocol import Float32

StepLogprobs = list[tuple["Tensor", "Tensor"]]
"""Per micro-batch: the completion of each chosen token [C], and the token's log-probability [C]."""


def by_completion(steps: StepLogprobs, completions: Sequence[Completion]) -> tuple[Float32, ...]:
    """The recorded log-probabilities [R] of each completion, 0 where the token was not chosen, or has none."""
    import numpy as np

    members = np.concatenate([members.cpu().numpy() for members, _ in steps])
    chosen = np.concatenate([logprobs.float().cpu().numpy() for _, logprobs in steps])
    results = []
    for index, completion in enumerate(completions):
        values = np.zeros(len(completion.completion_ids), dtype=np.float32)
        recorded = chosen[members == index]
        values[np.flatnonzero(completion.completion_mask)[: len(recorded)]] = recorded
        results.append(values)
    return tuple(results)


def core_batch(batch: TrainBatch) -> types.Batch:
    """``batch`` in the core's types. Its trainer's default advantages equal ``TrainGroup.advantages``."""
    from grpo_core import types

    groups = []
    for index, group in enumerate(batch.groups):
        trajectories = []
        for completion, reward in zip(group.completions, group.rewards, strict=True):
            turn = types.Completion(
                prompt_ids=group.prompt_ids,
                completion_ids=completion.completion_ids,
                completion_mask=completion.completion_mask,
                sampling_logprobs=completion.sampling_logprobs,
                policy_version=0,
                temperature=1.0,
                finish_reason="stop",
                ref_logprobs=completion.ref_logprobs,
            )
            trajectories.append(types.Trajectory(str(index), "policy", (turn,), reward))
        groups.append(types.Group(str(index), tuple(trajectories)))
    return types.Batch(0, 0, tuple(groups), types.RolloutStats(0.0, 0, 0, 0, 0))
