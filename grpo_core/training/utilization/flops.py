"""The floating-point operations that a step needs at least, and how many the device does in a second.

Only what has to be computed counts: a shared prompt once (prefix-aware), a token and those that it attends to
(causality-aware), and of frozen weights the gradient of their inputs (LoRA-aware). Frozen weights have no gradient of
their own, so a linear map costs as much backward as forward; attention costs twice as much. In the last layer only the
tokens that predict a chosen one count. Norms, rotary embeddings and the optimizer are left out.

Legend: T tokens, C chosen tokens, E hidden size, V vocabulary. A pair is a token and one that it attends to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from grpo_core.kernels.linear import linear
from grpo_core.model.policy import Policy, linear_modules
from grpo_core.training.forward.packing import PackedBatch
from grpo_core.training.utilization.device_clock import device_seconds

_FIRST_INPUTS = ("q_proj", "k_proj", "v_proj")
_NUM_TRIES = 5
_SIZES = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What the operations of a pass depend on, for a model that is trained by one method."""

    num_layers: int
    num_linear_weights: int  # of all layers together, without the head
    num_first_weights: int  # of the first layer's queries, keys and values: frozen, nothing trained lies below them
    attention_width: int  # numbers of all heads of a query
    hidden_size: int  # E
    vocab_size: int  # V
    num_adapter_weights: int
    is_full: bool  # all weights are trained

    @classmethod
    def of(cls, policy: Policy, *, num_adapter_weights: int, is_full: bool) -> ModelCost:
        """The sizes of ``policy`` without its adapter."""
        linears = linear_modules(policy.decoder)
        first = [part for name, part in linears.items() if ".0." in f".{name}" and name.endswith(_FIRST_INPUTS)]
        queries = [part.out_features for name, part in linears.items() if name.endswith(_FIRST_INPUTS[0])]
        return cls(
            num_layers=policy.num_layers,
            num_linear_weights=sum(_num_weights(part) for part in linears.values()),
            num_first_weights=sum(map(_num_weights, first)),
            attention_width=queries[0] if queries else policy.hidden_size,
            hidden_size=policy.hidden_size,
            vocab_size=policy.vocab_size,
            num_adapter_weights=num_adapter_weights,
            is_full=is_full,
        )

    def step_flops(self, batch: PackedBatch) -> float:
        """Forward and backward of one micro-batch."""
        size = _size_of(batch)
        upper = (self.num_layers - 1) / self.num_layers
        tokens = upper * size.num_tokens + (1 - upper) * size.num_needed
        pairs = upper * size.num_pairs + (1 - upper) * size.num_needed_pairs
        linears = 2.0 * self.num_linear_weights * tokens
        attention = 4.0 * self.num_layers * self.attention_width * pairs
        head = 2.0 * self.hidden_size * (size.num_free * self.vocab_size + size.num_allowed)
        forward = linears + attention + head
        if self.is_full:
            return forward + 2 * forward
        unneeded = 2.0 * (self.num_first_weights * size.num_tokens + self.attention_width * size.num_pairs)
        adapter = 6.0 * self.num_adapter_weights * tokens
        return forward + linears + 2 * attention + head - unneeded + adapter

    def conventional_flops(self, num_padded_tokens: int) -> float:
        """6 N T of all weights and of the same sequences one by one, as it is often reported (Kaplan et al. 2020)."""
        return 6.0 * (self.num_linear_weights + self.hidden_size * self.vocab_size) * num_padded_tokens


@dataclass(frozen=True, slots=True)
class _Size:
    num_tokens: int
    num_pairs: int
    num_needed: int  # tokens that predict a chosen one
    num_needed_pairs: int
    num_free: int  # chosen tokens without a constraint
    num_allowed: int  # ids that the others could be


def _size_of(batch: PackedBatch) -> _Size:
    """Padding does not count."""
    needed = np.unique(batch.predictors.cpu().numpy())
    if batch.tree is not None:
        attended = batch.tree.positions + 1
        needed_attended = attended[needed]
    else:
        width = batch.input_ids.shape[1]
        ends = np.zeros(len(batch.input_ids), dtype=np.int64)
        np.maximum.at(ends, needed // width, needed % width + 1)
        attended = np.concatenate([np.arange(1, end + 1) for end in ends])
        needed_attended = needed % width + 1
    support = batch.support
    return _Size(
        num_tokens=len(attended),
        num_pairs=int(attended.sum()),
        num_needed=len(needed),
        num_needed_pairs=int(needed_attended.sum()),
        num_free=len(batch.targets) - (len(support.tokens) if support is not None else 0),
        num_allowed=int(support.sets.offsets[-1]) if support is not None else 0,
    )


@lru_cache(maxsize=8)
def matrix_rate(device: torch.device, dtype: torch.dtype, num_threads: int) -> float:
    """FLOP per second of a large product of matrices: the best of five. On a CPU with ``num_threads`` of its threads,
    which the caller has set."""
    size = _SIZES.get(device.type, _SIZES["cpu"])
    x = torch.ones(size, size, device=device, dtype=dtype)
    return 2.0 * size**3 / min(device_seconds(device, lambda: linear(x, x)) for _ in range(_NUM_TRIES))


def _num_weights(part: nn.Linear) -> int:
    return part.in_features * part.out_features
