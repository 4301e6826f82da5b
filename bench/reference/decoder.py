"""What a training step needs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Decoder(Protocol):
    """A causal language model whose ``adapter`` weights are trained.

    Legend: B rows, T tokens of a row, V vocabulary.
    """

    @property
    def adapter(self) -> Mapping[str, Tensor]: ...

    def hidden(self, ids: Tensor) -> Tensor:
        """The states [B, T, ..] of ``ids`` [B, T], each of which sees those before it."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., V] of states."""
        ...
