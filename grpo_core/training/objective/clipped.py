"""PPO's clipped surrogate: with a ratio per token the policy term of GRPO, with one per sequence that of GSPO."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_core.training.objective.policy_term import PolicyTerm


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, clip_dual: float | None = None
) -> PolicyTerm:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) [C]; with ``clip_dual`` c, at most -c A where A < 0.

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
