"""Corrections for a sampler that did not draw from exactly the policy that the trainer computes.

Legend: k the probability ratio of the trainer's policy to the sampler's, per token or per sequence [C].
"""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_weights(ratio: Tensor, high: float) -> Tensor:
    """min(k, high): importance sampling with a bounded weight.

    Per token: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", TIS.
    """
    return ratio.clamp(max=high)


def masked_weights(ratio: Tensor, low: float, high: float) -> Tensor:
    """k where low <= k <= high, else 0: what the sampler saw very differently is left out.

    Per token: Ling Team 2025, "Every Step Evolves", IcePop; per sequence: masked importance sampling (MIS).
    """
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)
