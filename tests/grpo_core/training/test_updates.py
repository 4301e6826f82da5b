"""Several updates on one batch, against a plain loop: steps of one update each, on the batch or on a part of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.distributed.ranks import SingleProcess
from grpo_core.training.objective.selected_groups import SelectedGroups
from grpo_core.training.objective.token_table import num_chosen
from grpo_core.training.scoring import score_completions
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch, Completion, StepMetrics

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]

TRAINING = {"learning_rate": 0.01, "kl_coefficient": 0.05, "max_grad_norm": 1e9}


@pytest.fixture
def batch(make_engine: MakeEngine, sample_batch: SampleBatch) -> Batch:
    return sample_batch(make_engine(), 1)


def same_weights(one: Trainer, other: Trainer) -> bool:
    mine, its = one.weights().tensors, other.weights().tensors
    return all(torch.equal(value, its[name]) for name, value in mine.items())


def parts_of(batch: Batch, *sizes: int) -> list[Batch]:
    bounds = np.cumsum([0, *sizes])
    return [replace(batch, groups=batch.groups[start:end]) for start, end in itertools.pairwise(bounds)]


@pytest.mark.parametrize("loss", ["dapo", "gspo", "cispo"])
def test_updates_on_the_whole_batch_keep_the_old_logprobs(loss: str, make_trainer: MakeTrainer, batch: Batch) -> None:
    trainer, plain = make_trainer(updates_per_batch=3, loss=loss, **TRAINING), make_trainer(loss=loss, **TRAINING)
    metrics = trainer.step(batch)
    steps = [plain.step(batch) for _ in range(3)]  # each batch brings the sampler's log-probabilities

    assert same_weights(trainer, plain)
    assert (metrics.step, metrics.num_updates, plain.version) == (1, 3, 3)
    assert metrics.loss == pytest.approx(np.mean([step.loss for step in steps]))
    assert metrics.grad_norm == pytest.approx(np.mean([step.grad_norm for step in steps]))
    assert (metrics.ratio_min, metrics.ratio_max) == (
        min(step.ratio_min for step in steps),
        max(step.ratio_max for step in steps),
    )
    assert metrics.ratio_max > 1.001
    assert metrics.mismatch_ratio_max == steps[0].mismatch_ratio_max  # it is about the policy before all updates
    assert (metrics.num_loss_tokens, metrics.num_sequences) == (steps[0].num_loss_tokens, steps[0].num_sequences)
    assert metrics.num_forward_passes == 3 * steps[0].num_forward_passes


def test_recomputed_old_logprobs_are_those_of_the_batchs_start(make_trainer: MakeTrainer, batch: Batch) -> None:
    trainer = make_trainer(updates_per_batch=4, mini_batches=2, old_logprobs="recomputed", **TRAINING)
    plain = make_trainer(**TRAINING)
    for each in (trainer, plain):  # so that the sampler's log-probabilities are no longer the policy's
        each.learning_rate = 0.05
    make_old = make_trainer(**TRAINING)
    rescored = with_logprobs_of(make_old, batch)
    metrics = trainer.step(batch)
    for part in parts_of(rescored, 2, 2) * 2:
        plain.step(part)

    assert metrics.num_scoring_passes > 0
    for name, value in trainer.weights().tensors.items():
        assert torch.allclose(value, plain.weights().tensors[name], rtol=0, atol=2e-5)


def with_logprobs_of(trainer: Trainer, batch: Batch) -> Batch:
    """``batch`` with the log-probabilities of ``trainer``'s policy in place of the sampler's."""
    completions = SelectedGroups(batch.groups, 0).completions
    own = list(range(len(completions)))
    scores = score_completions(trainer._policy, completions, own, trainer._config, SingleProcess()).logprobs
    pieces = iter(np.split(scores, np.cumsum(num_chosen(completions))[:-1]))

    def rescored(turn: Completion) -> Completion:
        logprobs = np.zeros(len(turn.completion_ids), dtype=np.float32)
        logprobs[turn.completion_mask] = next(pieces)
        return replace(turn, sampling_logprobs=logprobs)

    groups = tuple(
        replace(
            group,
            trajectories=tuple(
                replace(item, turns=tuple(rescored(turn) for turn in item.turns)) for item in group.trajectories
            ),
        )
        for group in batch.groups
    )
    return replace(batch, groups=groups)


@pytest.mark.parametrize(("num_groups", "sizes"), [(4, (2, 2)), (3, (1, 2))])
def test_each_update_trains_on_the_next_groups(
    num_groups: int, sizes: tuple[int, ...], make_trainer: MakeTrainer, batch: Batch
) -> None:
    batch = replace(batch, groups=batch.groups[:num_groups])
    trainer, plain = make_trainer(updates_per_batch=4, mini_batches=2, **TRAINING), make_trainer(**TRAINING)
    metrics = trainer.step(batch)
    steps = [plain.step(part) for part in parts_of(batch, *sizes) * 2]

    assert same_weights(trainer, plain)
    assert metrics.num_updates == 4
    assert metrics.num_loss_tokens == sum(step.num_loss_tokens for step in steps[:2])
    assert metrics.num_model_tokens == sum(step.num_model_tokens for step in steps)
    assert metrics.num_padded_tokens == sum(step.num_padded_tokens for step in steps)


def test_advantages_are_those_of_the_whole_batch(make_trainer: MakeTrainer, batch: Batch) -> None:
    """``dr_grpo`` divides by a constant, so the gradients of two equal parts have the whole's as their mean, if their
    advantages are the whole's. ``batch_std`` has another scale in each part alone."""
    settings: dict[str, Any] = TRAINING | {"learning_rate": 0.0, "loss": "dr_grpo", "loss_length_tokens": 12}
    even = replace(batch, groups=(batch.groups[0], batch.groups[2]))  # of one turn each: equally many sequences
    found = {}
    for num in (1, 2):
        trainer = make_trainer(advantages="batch_std", updates_per_batch=num, mini_batches=num, **settings)
        taken: list[list[Tensor]] = []
        trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *given, taken=taken: taken.append(
                [value.grad.clone() for value in optimizer.param_groups[0]["params"]]
            )
        )
        trainer.step(even)
        found[num] = taken
    (whole,), parts = found[1], found[2]

    assert len(parts) == 2
    for place, gradient in enumerate(whole):
        assert torch.allclose(gradient, (parts[0][place] + parts[1][place]) / 2, rtol=0, atol=1e-6)
    assert any(float((one - other).abs().max()) > 1e-3 for one, other in zip(*parts, strict=True))


def test_a_part_without_a_gradient_makes_no_update(make_trainer: MakeTrainer, batch: Batch) -> None:
    flat = tuple(
        replace(group, trajectories=tuple(replace(item, reward=0.5) for item in group.trajectories))
        for group in batch.groups[2:]
    )
    trainer = make_trainer(
        updates_per_batch=2, mini_batches=2, drop_zero_variance_groups=True, **TRAINING | {"kl_coefficient": 0.0}
    )
    metrics = trainer.step(replace(batch, groups=(batch.groups[0], *flat)))

    assert (metrics.num_updates, metrics.num_skipped_updates, metrics.is_skipped) == (1, 0, False)


def test_an_update_that_is_not_finite_is_left_out_alone(make_trainer: MakeTrainer, batch: Batch) -> None:
    broken = replace(batch, groups=(batch.groups[0], overflowing(batch).groups[1]))
    trainer, plain = make_trainer(updates_per_batch=2, mini_batches=2, **TRAINING), make_trainer(**TRAINING)
    metrics = trainer.step(broken)
    plain.step(replace(batch, groups=batch.groups[:1]))

    assert same_weights(trainer, plain)
    assert (metrics.num_updates, metrics.num_skipped_updates, metrics.is_skipped) == (1, 1, False)
    assert metrics.nonfinite_trajectories == "|".join(f"1[{index}]" for index in range(3))
    assert trainer.num_skipped_steps == 0


def overflowing(batch: Batch) -> Batch:
    def turn_of(turn: Completion) -> Completion:
        logprobs = np.where(turn.completion_mask, np.float32(-1e4), np.float32(0))
        return replace(turn, sampling_logprobs=logprobs)

    groups = tuple(
        replace(
            group,
            trajectories=tuple(
                replace(item, turns=tuple(turn_of(turn) for turn in item.turns)) for item in group.trajectories
            ),
        )
        for group in batch.groups
    )
    return replace(batch, groups=groups)


def test_one_update_is_the_default(make_trainer: MakeTrainer, batch: Batch) -> None:
    metrics: StepMetrics = make_trainer(**TRAINING).step(batch)
    assert (metrics.num_updates, metrics.num_skipped_updates) == (1, 0)
