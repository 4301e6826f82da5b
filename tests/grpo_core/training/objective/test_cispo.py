from __future__ import annotations

import pytest
import torch

from grpo_core.training.objective.cispo import cispo_loss


def test_by_hand() -> None:
    """Ratios 0.5, 1, 3 with advantage 2, then -1; the bound is 1.5. The ratio is a weight, without a gradient."""
    old = torch.tensor([0.2] * 6, dtype=torch.float64).log()
    logprobs = torch.tensor([0.1, 0.2, 0.6] * 2, dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([2.0] * 3 + [-1.0] * 3, dtype=torch.float64)

    term = cispo_loss(logprobs, (logprobs - old).exp(), advantages, clip_high=0.5)
    (gradient,) = torch.autograd.grad(term.loss.sum(), logprobs)

    assert gradient.tolist() == pytest.approx([-1, -2, -3, 0.5, 1, 1.5])  # -min(r, 1.5) A: none is lost
    expected = [weight * value for weight, value in zip(gradient.tolist(), logprobs.tolist(), strict=True)]
    assert term.loss.tolist() == pytest.approx(expected)
    assert term.is_clipped_high.tolist() == [False, False, True, False, False, True]
    assert not term.is_clipped_low.any()
