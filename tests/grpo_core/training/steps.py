"""What the tests look at in a step: its turns, and the gradients that it left."""

from __future__ import annotations

from torch import Tensor, nn

from grpo_core.training.advantages import group_advantages
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch, Completion

EXACT = {"max_grad_norm": 1e9, "learning_rate": 0.0}
"""Gradients as they are, and no update."""


def turns_of(batch: Batch) -> list[tuple[Completion, float]]:
    """All turns, with the advantage of their trajectory."""
    advantages = group_advantages(batch.groups, "group_std")
    return [
        (turn, float(value))
        for group, values in zip(batch.groups, advantages, strict=True)
        for trajectory, value in zip(group.trajectories, values, strict=True)
        for turn in trajectory.turns
    ]


def parameters_of(trainer: Trainer) -> list[nn.Parameter]:
    return trainer.optimizer.param_groups[0]["params"]


def gradients_of(trainer: Trainer) -> list[Tensor]:
    """Of the last step."""
    gradients = [parameter.grad for parameter in parameters_of(trainer)]
    return [gradient.clone() for gradient in gradients if gradient is not None]
