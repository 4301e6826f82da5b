"""What each token's loss counts for: the average over a step, importance weights, which tokens are left out.

Each average needs totals of the whole step and nothing else, so the gradient does not depend on how the step is split
into micro-batches.

Legend: B sequences, C chosen tokens. A sequence is one completion: one answer to one prompt. ``lengths`` [B] are the
tokens with a loss of each sequence; a sequence without any does not count. Weights [B] apply to each token of the
sequence. k is the probability ratio of the trainer's policy to the sampler's, per token or per sequence [C].
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_core.types import Bool, Float64

Lengths = NDArray[np.int64]


def sequence_mean_weights(lengths: Lengths) -> Float64:
    """1 / (N |o_i|): the mean over sequences of the mean over their tokens (Shao et al. 2024, DeepSeekMath, eq. 3)."""
    return 1.0 / (max(np.count_nonzero(lengths), 1) * np.maximum(lengths, 1))


def token_mean_weights(lengths: Lengths) -> Float64:
    """1 / sum |o_i|: the mean over all tokens of the step (Yu et al. 2025, DAPO, eq. 8)."""
    return np.full(len(lengths), 1.0 / max(lengths.sum(), 1))


def constant_length_weights(lengths: Lengths, length_tokens: int) -> Float64:
    """1 / (N L) with a constant L (Liu et al. 2025, "Understanding R1-Zero-Like Training", Dr. GRPO, section 3.2)."""
    return np.full(len(lengths), 1.0 / (max(np.count_nonzero(lengths), 1) * length_tokens))


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


def sequence_sums(values: Tensor, sequences: Tensor) -> Tensor:
    """[C]: the sum of ``values`` [C] over all tokens with the same number in ``sequences`` [C], 0 and up."""
    size = int(sequences.max()) + 1 if len(sequences) else 0
    return values.new_zeros(size).index_add(0, sequences, values)[sequences]


def sequence_means(values: Tensor, sequences: Tensor) -> Tensor:
    """[C]: the mean of ``values`` over the same tokens.

    Of log-ratios it is the logarithm of GSPO's ratio, (p(y) / p_old(y)) ^ (1 / |y|) (Zheng et al. 2025, "Group Sequence
    Policy Optimization", eq. 7).
    """
    return sequence_sums(values, sequences) / sequence_sums(torch.ones_like(values), sequences)


def top_entropy_mask(entropy: Float64, is_counted: Bool, share: float) -> Bool:
    """[C]: the counted tokens whose entropy reaches the (1 - ``share``) quantile of all counted ones of the step.

    Wang et al. 2025, "Beyond the 80/20 Rule", section 5; a share of 0.2 there.
    """
    if share >= 1.0 or not is_counted.any():
        return is_counted
    return is_counted & (entropy >= np.quantile(entropy[is_counted], 1.0 - share))
