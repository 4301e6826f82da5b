from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from grpo_core.errors import BatchError
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch, RaggedIds

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]


def changed_turn(batch: Batch, **changes: Any) -> Batch:
    """``batch`` with another first turn in its second group."""
    group = batch.groups[1]
    trajectory = group.trajectories[0]
    turn = replace(trajectory.turns[0], **changes)
    trajectory = replace(trajectory, turns=(turn, *trajectory.turns[1:]))
    return replace(batch, groups=(batch.groups[0], replace(group, trajectories=(trajectory, *group.trajectories[1:]))))


def without_choice(batch: Batch) -> Batch:
    """``batch`` with every token forced."""
    return replace(
        batch,
        groups=tuple(
            replace(
                group,
                trajectories=tuple(
                    replace(
                        trajectory,
                        turns=tuple(
                            replace(turn, completion_mask=np.zeros_like(turn.completion_mask))
                            for turn in trajectory.turns
                        ),
                    )
                    for trajectory in group.trajectories
                ),
            )
            for group in batch.groups
        ),
    )


def broken_batches(batch: Batch) -> list[tuple[Batch, str]]:
    turn = batch.groups[1].trajectories[0].turns[0]
    num = len(turn.completion_ids)
    zeros = np.zeros(num, dtype=np.float32)
    first = int(np.flatnonzero(turn.completion_mask)[0])
    lost = RaggedIds(np.full(num, 300, dtype=np.int32), np.arange(num + 1, dtype=np.int32))
    bad = zeros.copy()
    bad[first] = np.nan
    reward = replace(batch.groups[1].trajectories[0], reward=float("inf"))
    alone = replace(batch.groups[1], trajectories=batch.groups[1].trajectories[:1])
    with_reward = replace(batch.groups[1], trajectories=(reward, *batch.groups[1].trajectories[1:]))
    return [
        (replace(batch, groups=()), "batch 0: no token to train on"),
        (without_choice(batch), "batch 0, group 0: no token to train on: every completion_mask"),
        (
            replace(batch, groups=(batch.groups[0], alone)),
            "group 1: 1 trajectories, too few for advantages 'group_std'",
        ),
        (replace(batch, groups=(batch.groups[0], with_reward)), "group 1: reward inf is not finite"),
        (changed_turn(batch, prompt_ids=np.zeros(0, np.int32)), "group 1: prompt_ids is empty"),
        (changed_turn(batch, prompt_ids=np.array([384], np.int32)), r"group 1: prompt_ids outside of .* 0\.\.383"),
        (changed_turn(batch, completion_ids=np.full(num, -1, np.int32)), "group 1: completion_ids outside of"),
        (changed_turn(batch, temperature=0.0), "group 1: temperature 0.0 is not within 1e-06 to 1e"),
        (
            changed_turn(batch, completion_mask=np.ones(num + 1, np.bool_)),
            f"group 1: {num} completion_ids, {num + 1} compl",
        ),
        (changed_turn(batch, sampling_logprobs=zeros[1:]), f"group 1: .* {num - 1} sampling_logprobs"),
        (changed_turn(batch, sampling_logprobs=bad), "group 1: sampling_logprobs .* not finite"),
        (changed_turn(batch, ref_logprobs=zeros[1:]), f"group 1: ref_logprobs of {num - 1} tokens, not {num}"),
        (changed_turn(batch, ref_logprobs=bad), "group 1: ref_logprobs .* not finite"),
        (changed_turn(batch, policy_version=2), "group 1: policy_version 2 is newer than the trainer's 1"),
        (changed_turn(batch, allowed_ids=lost), f"group 1: allowed_ids without the chosen token at {first}"),
        (changed_turn(batch, allowed_ids=RaggedIds(lost.ids, lost.offsets[:2])), "group 1: allowed_ids of 1 tokens"),
    ]


def test_a_batch_that_cannot_be_trained_on_is_named_and_changes_nothing(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    config = {"kl_coefficient": 0.1, "learning_rate": 0.01}
    good = sample_batch(make_engine(), 6, num_groups=2)
    trainer, untouched = make_trainer(**config), make_trainer(**config)
    for item in (trainer, untouched):
        item.step(good)
    cases = broken_batches(good)
    assert len(cases) == 16

    for batch, match in cases:
        with pytest.raises(BatchError, match=match) as error:
            trainer.step(batch)
        assert "\n" not in str(error.value)

    assert trainer.version == 1
    assert trainer.num_forward_passes == untouched.num_forward_passes
    assert trainer.step(good).loss == untouched.step(good).loss
    one, other = trainer.weights().tensors, untouched.weights().tensors
    assert all(torch.equal(one[name], other[name]) for name in one)
