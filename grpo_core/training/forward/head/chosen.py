"""Chosen tokens, the distributions that they were drawn from, and their scores.

Legend: C chosen tokens, S of them with a support, A allowed ids in all.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Support:
    """The allowed ids of constrained tokens. All other tokens were drawn from the whole vocabulary."""

    tokens: Tensor  # [S] int64, ascending: indices of the constrained tokens
    ids: Tensor  # [A] int64, end to end
    sizes: Tensor  # [S] int64

    def part(self, first: int, last: int) -> Support:
        """Of ``tokens[first:last]``."""
        start, size = int(self.sizes[:first].sum()), int(self.sizes[first:last].sum())
        return Support(self.tokens[first:last], self.ids[start : start + size], self.sizes[first:last])


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
