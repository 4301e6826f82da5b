"""The GRPO objective over chosen tokens. Pure functions.

Legend: C chosen tokens of the micro-batch. All log-probabilities in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Per-token terms [C]; ``loss`` carries the gradient, the rest does not."""

    loss: Tensor
    ratio: Tensor
    is_clipped: Tensor
    kl: Tensor | None


def grpo_token_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl_coefficient: float,
) -> TokenLoss:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coefficient * KL, per token.

    r = exp(logprobs - old_logprobs) (Schulman et al. 2017, eq. 7; asymmetric bounds: Yu et al. 2025, DAPO, eq. 10).
    ``ref_logprobs`` is needed only for the KL term.
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    kl = None
    if ref_logprobs is not None:
        kl = k3_kl(logprobs, ref_logprobs)
        loss = loss + kl_coefficient * kl
    is_clipped = ((ratio < 1.0 - clip_low) & (advantages < 0)) | ((ratio > 1.0 + clip_high) & (advantages > 0))
    return TokenLoss(loss, ratio.detach(), is_clipped, kl.detach() if kl is not None else None)


def k3_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = ref - policy: unbiased for KL(policy || reference), never negative (Schulman 2020)."""
    difference = ref_logprobs - logprobs
    return difference.exp() - difference - 1.0
