"""The policy losses, each per token: PPO's clipped surrogate (GRPO, GSPO), CISPO and SAPO.

Legend: C chosen tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PolicyTerm:
    """What every policy loss gives, [C] each.

    ``loss`` carries the gradient. A token is clipped low or high where that bound acts on it.
    """

    loss: Tensor
    is_clipped_low: Tensor
    is_clipped_high: Tensor


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, clip_dual: float | None = None
) -> PolicyTerm:
    """PPO's surrogate. With a ratio per token it is the policy term of GRPO, with one per sequence that of GSPO.

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) [C]; with ``clip_dual`` c, at most -c A where A < 0.

    Schulman et al. 2017, PPO, eq. 7; asymmetric bounds: Yu et al. 2025, DAPO, eq. 10; a second bound for negative
    advantages, whose term is unbounded otherwise: Ye et al. 2020, "Mastering Complex Control in MOBA Games with Deep
    Reinforcement Learning", dual-clip PPO. Clipped is a token whose gradient a bound removed.
    """
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages)
    is_high = (ratio > 1.0 + clip_high) & (advantages > 0)
    if clip_dual is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -clip_dual * advantages), loss)
        is_high = is_high | ((ratio > clip_dual) & (advantages < 0))
    return PolicyTerm(loss, is_clipped_low=(ratio < 1.0 - clip_low) & (advantages < 0), is_clipped_high=is_high)


def cispo_loss(logprobs: Tensor, ratio: Tensor, advantages: Tensor, *, clip_high: float) -> PolicyTerm:
    """CISPO clips the importance weight, not the update, so that every token keeps a gradient.

    -sg(min(r, 1 + clip_high)) A log p [C], sg: no gradient.

    MiniMax 2025, "MiniMax-M1", eq. 4 and 5, without a lower bound, as in its experiments. High-clipped is a token
    whose weight the bound made smaller.
    """
    bound = 1.0 + clip_high
    weight = ratio.detach().clamp(max=bound)
    is_high = ratio.detach() > bound
    return PolicyTerm(-weight * advantages * logprobs, torch.zeros_like(is_high), is_high)


def sapo_loss(
    ratio: Tensor, advantages: Tensor, *, temperature_positive: float, temperature_negative: float
) -> PolicyTerm:
    """SAPO has a smooth gate instead of a clip: a token fades out as its ratio leaves 1.

    -(4 / t) sigmoid(t (r - 1)) A [C], t by the sign of the advantage.

    Gao et al. 2025, "Soft Adaptive Policy Optimization", section 3. Its gradient is that of -r A at r = 1 and goes
    to 0 on both sides. Nothing is clipped.
    """
    temperature = torch.full_like(advantages, temperature_negative).masked_fill(advantages > 0, temperature_positive)
    loss = -(4.0 / temperature) * torch.sigmoid(temperature * (ratio - 1.0)) * advantages
    nothing = torch.zeros_like(loss, dtype=torch.bool)
    return PolicyTerm(loss, nothing, nothing)
