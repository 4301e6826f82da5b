from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grpo_core.training.objective.sapo import sapo_loss


def gradient_at(ratio: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    ratio = ratio.clone().requires_grad_()
    loss = sapo_loss(ratio, advantages, temperature_positive=1.0, temperature_negative=2.0).loss
    return loss.detach(), torch.autograd.grad(loss.sum(), ratio)[0]


def test_by_hand() -> None:
    """Ratios 1 and 1 + ln 3 with advantages +2 and -1, temperatures 1 and 2: sigmoids 1/2, 3/4 and 1/2, 9/10."""
    ratio = torch.tensor([1.0, 1 + math.log(3)] * 2, dtype=torch.float64)
    advantages = torch.tensor([2.0, 2.0, -1.0, -1.0], dtype=torch.float64)

    loss, gradient = gradient_at(ratio, advantages)

    assert loss.tolist() == pytest.approx([-4 * 0.5 * 2, -4 * 0.75 * 2, 2 * 0.5, 2 * 0.9])
    # 4 s (1 - s) A: that of -r A at r = 1
    assert gradient.tolist() == pytest.approx([-2, -4 * 0.75 * 0.25 * 2, 1, 4 * 0.9 * 0.1])


def test_the_gradient_fades_on_both_sides_and_faster_for_negative_advantages() -> None:
    ratio = torch.linspace(0, 8, 81, dtype=torch.float64)
    _, up = gradient_at(ratio, torch.ones_like(ratio))
    _, down = gradient_at(ratio, -torch.ones_like(ratio))

    assert int(up.abs().argmax()) == int(down.abs().argmax()) == 10  # ratio 1
    assert bool((up.abs().diff()[:10] > 0).all())
    assert bool((up.abs().diff()[10:] < 0).all())
    assert bool((down.abs() <= up.abs() + 1e-12).all())
