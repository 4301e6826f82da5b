"""Which tokens are at a fork: those of high entropy."""

from __future__ import annotations

import numpy as np

from grpo_core.types import Bool, Float64


def top_entropy_mask(entropy: Float64, is_counted: Bool, share: float) -> Bool:
    """[C]: the counted tokens whose entropy reaches the (1 - ``share``) quantile of all counted ones of the step.

    Wang et al. 2025, "Beyond the 80/20 Rule", section 5; a share of 0.2 there.
    """
    if share >= 1.0 or not is_counted.any():
        return is_counted
    return is_counted & (entropy >= np.quantile(entropy[is_counted], 1.0 - share))
