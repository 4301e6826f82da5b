"""The trainer's optimizer against torch's own, and AdamW also against the one that is written out in ``bench``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.reference.adamw import AdamW
from grpo_core.errors import CheckpointError
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.checkpoint.checkpoint import load_checkpoint, restore_trainer, save_checkpoint
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]

RATE, DECAY, BETAS = 0.01, 0.1, (0.8, 0.95)
SCHEDULE = {"learning_rate": RATE, "learning_rate_schedule": "cosine", "warmup_steps": 1, "weight_decay": DECAY}


@pytest.fixture
def batches(make_engine: MakeEngine, sample_batch: SampleBatch) -> list[Batch]:
    engine = make_engine()
    return [sample_batch(engine, seed, num_groups=2) for seed in range(3)]


def parameters_of(trainer: Trainer) -> list[nn.Parameter]:
    return [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]


def copies_of(trainer: Trainer) -> list[nn.Parameter]:
    return [nn.Parameter(parameter.detach().clone()) for parameter in parameters_of(trainer)]


def taken_gradients(trainer: Trainer) -> list[tuple[float, list[Tensor]]]:
    """Filled by each update: its learning rate, and the gradients that the optimizer gets."""
    taken: list[tuple[float, list[Tensor]]] = []

    def take(optimizer: Any, *given: object) -> None:
        gradients = [parameter.grad.clone() for parameter in parameters_of(trainer) if parameter.grad is not None]
        taken.append((optimizer.param_groups[0]["lr"], gradients))

    trainer.optimizer.register_step_pre_hook(take)
    return taken


def test_adamw_is_the_one_that_is_written_out(make_trainer: MakeTrainer, batches: list[Batch]) -> None:
    trainer = make_trainer(betas=BETAS, num_steps=3, **SCHEDULE)
    taken, started = taken_gradients(trainer), copies_of(trainer)
    weights = {str(place): value.detach().double() for place, value in enumerate(started)}
    metrics = [trainer.step(batch) for batch in batches]
    plain = AdamW(*BETAS, weight_decay=DECAY)
    for rate, gradients in taken:
        plain.step(weights, {str(place): value.double() for place, value in enumerate(gradients)}, rate)

    assert [step.num_updates for step in metrics] == [1, 1, 1]
    for place, value in enumerate(parameters_of(trainer)):
        assert torch.allclose(value.double(), weights[str(place)], rtol=0, atol=1e-6)
        assert not torch.equal(value, started[place])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_muon_is_torchs_own_and_has_all_matrices_of_the_layers(
    method: str, make_trainer: MakeTrainer, batches: list[Batch]
) -> None:
    trainer = make_trainer(method=method, optimizer="muon", betas=BETAS, num_steps=3, **SCHEDULE)
    taken, mine = taken_gradients(trainer), copies_of(trainer)
    names = {id(value): name for name, value in trainer._policy.model.named_parameters()}
    is_matrix = [
        value.ndim == 2 and "embed" not in names[id(value)] and "lm_head" not in names[id(value)]
        for value in parameters_of(trainer)
    ]
    for batch in batches:
        trainer.step(batch)
    matrices = [value for value, is_one in zip(mine, is_matrix, strict=True) if is_one]
    others = [value for value, is_one in zip(mine, is_matrix, strict=True) if not is_one]
    plain: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    ]
    if others:
        plain.append(torch.optim.AdamW(others, lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True))
    for rate, gradients in taken:
        for value, gradient in zip(mine, gradients, strict=True):
            value.grad = gradient
        for optimizer in plain:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()

    assert (len(others) > 0) == (method == "full")
    assert all(torch.equal(one, other) for one, other in zip(parameters_of(trainer), mine, strict=True))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_without_a_gradient_muon_changes_nothing(method: str, make_trainer: MakeTrainer, batches: list[Batch]) -> None:
    """Its momentum alone would move the weights, and so would weight decay."""
    trainer = make_trainer(method=method, optimizer="muon", learning_rate=RATE, weight_decay=DECAY, kl_coefficient=0.0)
    trainer.step(batches[0])
    before = [value.detach().clone() for value in parameters_of(trainer)]
    metrics = trainer.step(with_equal_rewards(batches[1]))

    assert metrics.num_updates == metrics.num_skipped_updates == 0
    assert all(torch.equal(one, other) for one, other in zip(parameters_of(trainer), before, strict=True))


def with_equal_rewards(batch: Batch) -> Batch:
    groups = tuple(
        replace(group, trajectories=tuple(replace(item, reward=1.0) for item in group.trajectories))
        for group in batch.groups
    )
    return replace(batch, groups=groups)


def test_a_checkpoint_of_another_optimizer_is_refused(
    make_trainer: MakeTrainer, batches: list[Batch], tmp_path: Path
) -> None:
    trainer = make_trainer()
    trainer.step(batches[0])
    save_checkpoint(tmp_path, trainer, {})
    with pytest.raises(CheckpointError, match="the optimizer is AdamW there and MuonAndAdamW here"):
        restore_trainer(make_trainer(optimizer="muon"), load_checkpoint(tmp_path))
