"""How many tokens two sequences begin with alike: what both prefix trees, of sampling and of training, are built by."""

from __future__ import annotations

import numpy as np

from grpo_core.types import Int32


def num_common_tokens(one: Int32, other: Int32) -> int:
    """The length of the longest common prefix of ``one`` and ``other``."""
    size = min(len(one), len(other))
    differing = np.flatnonzero(one[:size] != other[:size])
    return int(differing[0]) if len(differing) else size
