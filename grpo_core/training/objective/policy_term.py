"""What every policy loss gives per token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PolicyTerm:
    """[C] each. ``loss`` carries the gradient; a token is clipped low or high where that bound acts on it."""

    loss: Tensor
    is_clipped_low: Tensor
    is_clipped_high: Tensor
