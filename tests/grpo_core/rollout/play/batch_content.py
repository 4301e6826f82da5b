"""What a batch holds, to compare it."""

from __future__ import annotations

from typing import Any

from grpo_core.types import Batch, Completion


def content(batch: Batch) -> list[Any]:
    """All that is trained on, comparable."""
    return [
        (
            group.group_id,
            trajectory.agent,
            trajectory.reward,
            [
                (turn.prompt_ids.tolist(), turn.completion_ids.tolist(), turn.sampling_logprobs.round(4).tolist())
                for turn in trajectory.turns
            ],
        )
        for group in batch.groups
        for trajectory in group.trajectories
    ]


def turns_of(batch: Batch) -> list[Completion]:
    return [turn for group in batch.groups for trajectory in group.trajectories for turn in trajectory.turns]
