"""What the loss of a token counts for in a step: every choice needs totals of the whole step and nothing else.

So the gradient does not depend on how the step is split into micro-batches.

Legend: B sequences, C chosen tokens. ``lengths`` [B] are the tokens with a loss of each sequence; one without any does
not count as a sequence. The weights [B] are those of each token of the sequence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grpo_core.types import Float64

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
