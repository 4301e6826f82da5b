"""Check that a batch can be trained on, before anything changes."""

from __future__ import annotations

import numpy as np

from grpo_core.config import TrainingConfig
from grpo_core.errors import BatchError
from grpo_core.types import MAX_TEMPERATURE, MIN_TEMPERATURE, Batch, Completion, Group


def check_batch(batch: Batch, version: int, config: TrainingConfig, vocab_size: int) -> None:
    """Check ``batch`` for a trainer at ``version``.

    Raises:
        BatchError: it cannot be trained on; names the group and the field.
    """
    turns = [turn for group in batch.groups for trajectory in group.trajectories for turn in trajectory.turns]
    if not any(turn.completion_mask.any() for turn in turns):
        where = f", group {batch.groups[0].group_id}" if batch.groups else ""
        raise BatchError(
            f"batch {batch.index}{where}: no token to train on: every completion_mask of the batch is False "
            "throughout; check the environment"
        )
    for group in batch.groups:
        _check_group(group, f"batch {batch.index}, group {group.group_id}", version, config, vocab_size)


def _check_group(group: Group, where: str, version: int, config: TrainingConfig, vocab_size: int) -> None:
    if len(group.trajectories) < 2 and config.advantages != "mean_only":
        raise BatchError(
            f"{where}: {len(group.trajectories)} trajectories, too few for advantages {config.advantages!r}; collect "
            "at least 2, or use training.advantages 'mean_only'"
        )
    for trajectory in group.trajectories:
        if not np.isfinite(trajectory.reward):
            raise BatchError(f"{where}: reward {trajectory.reward} is not finite; fix the environment's rewards")
        for turn in trajectory.turns:
            _check_lengths(turn, where)
            _check_values(turn, where, version, vocab_size)


def _check_lengths(turn: Completion, where: str) -> None:
    num = len(turn.completion_ids)
    if len(turn.prompt_ids) == 0:
        raise BatchError(f"{where}: prompt_ids is empty, nothing predicts the first token; give a prompt")
    if not num == len(turn.completion_mask) == len(turn.sampling_logprobs):
        raise BatchError(
            f"{where}: {num} completion_ids, {len(turn.completion_mask)} completion_mask, "
            f"{len(turn.sampling_logprobs)} sampling_logprobs; they must be equally long"
        )
    for name, values in (("ref_logprobs", turn.ref_logprobs), ("allowed_ids", turn.allowed_ids)):
        if values is not None and len(values) != num:
            raise BatchError(f"{where}: {name} of {len(values)} tokens, not {num}; collect it again")


def _check_values(turn: Completion, where: str, version: int, vocab_size: int) -> None:
    if turn.policy_version > version:
        raise BatchError(
            f"{where}: policy_version {turn.policy_version} is newer than the trainer's {version}; "
            "resume the trainer from that version or drop the batch"
        )
    if not MIN_TEMPERATURE <= turn.temperature <= MAX_TEMPERATURE:
        raise BatchError(
            f"{where}: temperature {turn.temperature} is not within {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}; sample "
            "with one that is"
        )
    for name, ids in (("prompt_ids", turn.prompt_ids), ("completion_ids", turn.completion_ids)):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise BatchError(f"{where}: {name} outside of the model's 0..{vocab_size - 1}; use its own tokenizer")
    for name, values in (("sampling_logprobs", turn.sampling_logprobs), ("ref_logprobs", turn.ref_logprobs)):
        if values is not None and not np.isfinite(values).all():
            position = int(np.argmin(np.isfinite(values)))
            raise BatchError(f"{where}: {name} at {position} is not finite; collect it again")
    if turn.allowed_ids is not None:
        for position in range(len(turn.allowed_ids)):
            ids = turn.allowed_ids[position]
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
                raise BatchError(
                    f"{where}: allowed_ids outside of the model's 0..{vocab_size - 1}; use its own tokenizer"
                )
            if turn.completion_mask[position] and turn.completion_ids[position] not in ids:
                raise BatchError(f"{where}: allowed_ids without the chosen token at {position}; collect it again")
