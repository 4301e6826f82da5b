"""What was drawn, from what, and how likely it was.

Legend: C chosen tokens, S of them with a support, A allowed ids in all.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Support:
    """The ids that some tokens could be drawn from; the others were drawn from the whole vocabulary."""

    tokens: Tensor  # [S] int64, ascending: the chosen tokens that have one
    ids: Tensor  # [A] int64, end to end
    sizes: Tensor  # [S] int64

    def part(self, first: int, last: int) -> Support:
        """Of ``tokens[first:last]``."""
        start, size = int(self.sizes[:first].sum()), int(self.sizes[first:last].sum())
        return Support(self.tokens[first:last], self.ids[start : start + size], self.sizes[first:last])


@dataclass(frozen=True, slots=True)
class ChosenTokens:
    """What was drawn, and from what: logits over the temperature, renormalised over the support."""

    targets: Tensor  # [C] int64
    temperatures: Tensor  # [C] float32
    support: Support | None  # None: all were drawn from the whole vocabulary


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probability and entropy, in nats, of the distribution that each chosen token was drawn from. [C] each."""

    logprobs: Tensor
    entropy: Tensor
