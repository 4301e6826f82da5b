"""One training step in plain torch: a padded row per answer, one forward pass, one backward pass, one AdamW update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .adamw import AdamW, clipped, norm
from .loss import Answer, loss, token_logprobs
from .model import Model


@dataclass(frozen=True)
class Step:
    """``gradients`` are those that the optimizer took: clipped. ``grad_norm`` is that of before."""

    loss: float
    grad_norm: float
    gradients: dict[str, Tensor]
    logprobs: list[Tensor]  # [R] of each answer


def train_step(
    model: Model,
    optimizer: AdamW,
    answers: Sequence[Answer],
    *,
    learning_rate: float,
    clip: float,
    kl_coefficient: float,
    max_grad_norm: float,
    rows_per_pass: int | None = None,
) -> Step:
    """Update the adapter of ``model``. At most ``rows_per_pass`` rows go through the model together; None: all."""
    names = list(model.adapter)
    num_tokens = sum(int(answer.is_chosen.sum()) for answer in answers)
    size = rows_per_pass or len(answers)
    total = 0.0
    sums = {name: torch.zeros_like(weight) for name, weight in model.adapter.items()}
    scored: list[Tensor] = []
    for first in range(0, len(answers), size):
        part = answers[first : first + size]
        logprobs = token_logprobs(model, part)
        value = loss(logprobs, part, num_tokens, clip=clip, kl_coefficient=kl_coefficient)
        for name, gradient in zip(names, torch.autograd.grad(value, list(model.adapter.values())), strict=True):
            sums[name] += gradient
        total += float(value.detach())
        scored += [row.detach() for row in logprobs]
    gradients = clipped(sums, max_grad_norm)
    optimizer.step(model.adapter, gradients, learning_rate)
    return Step(total, float(norm(sums)), gradients, scored)
