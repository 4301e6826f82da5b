"""Sums and means over the chosen tokens of each sequence, given back to every token.

A sequence is one completion: one answer to one prompt. A trajectory of several turns has several.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
