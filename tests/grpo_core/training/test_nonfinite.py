"""Steps with a non-finite loss or gradient are skipped and counted, and their trajectories named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.checkpoint.random_state import capture_random_state
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]

TRAINING = {"learning_rate": 0.01, "kl_coefficient": 0.05, "micro_batch_tokens": 1}


def overflowing(batch: Batch, *places: tuple[int, int]) -> Batch:
    """``batch`` with tokens of (group, trajectory) that the sampler is said to have found all but impossible."""
    groups = [list(group.trajectories) for group in batch.groups]
    for group, index in places:
        trajectory = groups[group][index]
        turn = trajectory.turns[-1]
        logprobs = np.where(turn.completion_mask, np.float32(-1e4), np.float32(0))
        groups[group][index] = replace(
            trajectory, turns=(*trajectory.turns[:-1], replace(turn, sampling_logprobs=logprobs))
        )
    return replace(
        batch,
        groups=tuple(
            replace(group, trajectories=tuple(items)) for group, items in zip(batch.groups, groups, strict=True)
        ),
    )


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    states = trainer.optimizer.state_dict()["state"]
    return {
        **trainer.weights().tensors,
        **{f"{i}.{name}": value.clone() for i, state in states.items() for name, value in state.items()},
        **capture_random_state(),
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("micro_batch_tokens", [1, 100_000])
def test_a_step_that_overflows_is_skipped_and_names_its_trajectories(
    micro_batch_tokens: int,
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = sample_batch(make_engine(), 21)
    bad = overflowing(good, (1, 2), (2, 0))
    trainer = make_trainer(**TRAINING | {"micro_batch_tokens": micro_batch_tokens})
    trainer.step(good)
    before = state_of(trainer)
    with caplog.at_level(logging.WARNING, logger="grpo_core.training"):
        metrics = trainer.step(bad)

    assert metrics.is_skipped
    assert metrics.nonfinite_trajectories == "1[2]|2[0]"
    assert (metrics.step, trainer.version, trainer.num_skipped_steps) == (2, 2, 1)
    assert same(before, state_of(trainer))
    assert caplog.messages == ["step 2 is skipped, its loss or gradient is non-finite (NaN or inf): 1[2]|2[0]"]
    assert trainer.weights().version.number == 2


def test_the_step_after_a_skipped_one_is_as_if_it_had_not_been(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    engine = make_engine()
    first, second = (sample_batch(engine, seed) for seed in (22, 23))
    skipping, untouched = make_trainer(**TRAINING), make_trainer(**TRAINING)
    for trainer in (skipping, untouched):
        trainer.step(first)
    skipping.step(overflowing(second, (0, 0)))
    one, other = skipping.step(second), untouched.step(second)

    assert (one.loss, one.grad_norm, one.is_skipped) == (other.loss, other.grad_norm, False)
    assert (one.step, other.step) == (3, 2)
    assert one.nonfinite_trajectories == ""
    assert same(state_of(skipping), state_of(untouched))


def test_a_gradient_that_breaks_behind_a_good_loss_names_its_micro_batch(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backward pass of the third micro-batch overflows in one module."""
    batch = sample_batch(make_engine(), 24)
    trainer = make_trainer(**TRAINING)
    whole = make_trainer(**TRAINING)
    num_micro_batches = whole.step(batch).num_micro_batches
    before = state_of(trainer)
    orders: list[tuple[int, ...]] = []
    forward = trainer._forward

    def recorded(packed: Any, *others: Any) -> Any:
        orders.append(packed.order)
        return forward(packed, *others)

    monkeypatch.setattr(trainer, "_forward", recorded)
    parameter = trainer.optimizer.param_groups[0]["params"][3]
    handle = parameter.register_hook(lambda gradient: gradient / 0 if len(orders) == 3 else gradient)
    metrics = trainer.step(batch)
    handle.remove()

    assert num_micro_batches > 3
    assert np.isfinite(metrics.loss)
    assert metrics.is_skipped
    assert same(before, state_of(trainer))
    sequences = [
        f"{group.group_id}[{index}]"
        for group in batch.groups
        for index, trajectory in enumerate(group.trajectories)
        for _ in trajectory.turns
    ]
    assert set(metrics.nonfinite_trajectories.split("|")) == {sequences[member] for member in orders[2]}


def test_a_finite_step_is_not_skipped(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    metrics = make_trainer(**TRAINING).step(sample_batch(make_engine(), 25))

    assert (metrics.is_skipped, metrics.nonfinite_trajectories) == (False, "")
