"""Advantages, weights and log-probabilities of a step's chosen tokens, all from before its forward pass.

Legend: B sequences, C chosen tokens of the step, completion after completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_core.types import Completion, Float64


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities [C] in nats. ``old`` is ``sampling`` where it was not recomputed; then there is no entropy."""

    sampling: Float64
    old: Float64
    reference: Float64 | None = None
    entropy: Float64 | None = None  # of the policy before the update

    @property
    def is_recomputed(self) -> bool:
        return self.entropy is not None

    def between(self, start: int, end: int) -> TokenLogprobs:
        """The chosen tokens from ``start`` to before ``end``."""
        reference, entropy = (
            None if column is None else column[start:end] for column in (self.reference, self.entropy)
        )
        return TokenLogprobs(self.sampling[start:end], self.old[start:end], reference, entropy)


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """Values of the chosen tokens of one micro-batch, [C] each, in the order of its packed batch."""

    advantages: Tensor
    policy_weights: Tensor
    kl_weights: Tensor
    entropy_weights: Tensor
    sampling_logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    sequences: Tensor  # int64, 0 and up within the micro-batch


class TokenTable:
    """The columns of ``TokenColumns`` for the whole step."""

    def __init__(self, completions: Sequence[Completion], *columns: Float64) -> None:
        lengths = num_chosen(completions)
        self._bounds = np.concatenate([[0], np.cumsum(lengths)])
        self._values = np.stack(columns)
        assert self._values.shape == (7, lengths.sum())

    def tokens(self, order: Sequence[int], like: Tensor) -> TokenColumns:
        """The tokens of the completions ``order``, one after the other, with the dtype and device of ``like``."""
        ranges = [np.arange(self._bounds[member], self._bounds[member + 1]) for member in order]
        columns = torch.from_numpy(self._values[:, np.concatenate(ranges)]).to(like.dtype).to(like.device)
        sequences = np.repeat(np.arange(len(order)), [len(each) for each in ranges])
        return TokenColumns(*columns.unbind(), sequences=torch.from_numpy(sequences).to(like.device))


def num_chosen(completions: Sequence[Completion]) -> np.ndarray:
    """[B], int64: tokens that the policy chose."""
    return np.array([np.count_nonzero(item.completion_mask) for item in completions], dtype=np.int64)
