"""SAPO: a smooth gate in place of the clip, that fades a token out as its ratio leaves 1."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_core.training.objective.policy_term import PolicyTerm


def sapo_loss(
    ratio: Tensor, advantages: Tensor, *, temperature_positive: float, temperature_negative: float
) -> PolicyTerm:
    """-(4 / t) sigmoid(t (r - 1)) A [C], t by the sign of the advantage.

    Gao et al. 2025, "Soft Adaptive Policy Optimization", section 3. Its gradient is that of -r A at r = 1 and goes
    to 0 on both sides. Nothing is clipped.
    """
    temperature = torch.full_like(advantages, temperature_negative).masked_fill(advantages > 0, temperature_positive)
    loss = -(4.0 / temperature) * torch.sigmoid(temperature * (ratio - 1.0)) * advantages
    nothing = torch.zeros_like(loss, dtype=torch.bool)
    return PolicyTerm(loss, nothing, nothing)
