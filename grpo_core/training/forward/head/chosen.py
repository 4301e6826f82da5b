"""Chosen tokens, the distributions that they were drawn from, and their scores.

Legend: C chosen tokens, S of them with a support.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_core.types import RaggedIds


@dataclass(frozen=True, slots=True)
class SupportPart:
    """The allowed ids of some constrained tokens."""

    tokens: Tensor  # [s] int64, ascending: indices of the tokens
    ids: Tensor  # int64, end to end
    sizes: Tensor  # [s] int64


@dataclass(frozen=True, slots=True)
class Support:
    """The allowed ids of constrained tokens. All other tokens were drawn from the whole vocabulary."""

    tokens: Tensor  # [S] int64, ascending: indices of the constrained tokens
    sets: RaggedIds  # of S tokens; large ones are packed until a part needs them

    def part(self, first: int, last: int) -> SupportPart:
        """The part of ``tokens[first:last]``."""
        last = min(last, len(self.sets))
        ids = torch.from_numpy(self.sets.between(first, last).astype(np.int64))
        sizes = torch.from_numpy(np.diff(self.sets.offsets[first : last + 1]).astype(np.int64))
        device = self.tokens.device
        return SupportPart(self.tokens[first:last], ids.to(device), sizes.to(device))


@dataclass(frozen=True, slots=True)
class ChosenTokens:
    """The drawn tokens and their distributions: logits over the temperature, renormalised over the support."""

    targets: Tensor  # [C] int64
    temperatures: Tensor  # [C] float32
    support: Support | None  # None: no token was constrained


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probability and entropy, in nats, of the distribution that each chosen token was drawn from. [C] each."""

    logprobs: Tensor
    entropy: Tensor
