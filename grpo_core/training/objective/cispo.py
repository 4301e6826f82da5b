"""CISPO: the importance weight is clipped, not the update, so that every token keeps a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_core.training.objective.policy_term import PolicyTerm


def cispo_loss(logprobs: Tensor, ratio: Tensor, advantages: Tensor, *, clip_high: float) -> PolicyTerm:
    """-sg(min(r, 1 + clip_high)) A log p [C], sg: no gradient.

    MiniMax 2025, "MiniMax-M1", eq. 4 and 5, without a lower bound, as in its experiments. High-clipped is a token
    whose weight the bound made smaller.
    """
    bound = 1.0 + clip_high
    weight = ratio.detach().clamp(max=bound)
    is_high = ratio.detach() > bound
    return PolicyTerm(-weight * advantages * logprobs, torch.zeros_like(is_high), is_high)
