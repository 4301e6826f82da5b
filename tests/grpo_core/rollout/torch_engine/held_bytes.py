"""Keys and values that are in memory, counted where torch makes their tensors, copies of a moment included."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_core.rollout.torch_engine.cache.rows import OWN_STEP_TOKENS
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights

MAKING = (torch.ops.aten.new_zeros, torch.ops.aten.new_empty, torch.ops.aten.clone)
FEW = 4
"""So many tokens of a prompt look as the attention of a pass over two rows does, and are not counted."""


class HeldBytes(TorchDispatchMode):
    """``now`` and ``most`` bytes of tensors [L, ..., D] that own their memory."""

    def __init__(self, weights: DecoderWeights) -> None:
        super().__init__()
        self.now = self.most = 0
        self._layers, self._key_heads, self._size = len(weights.layers), weights.num_key_heads, weights.head_size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in MAKING and isinstance(out, Tensor) and self._is_kv(out):
            self.now += out.nbytes
            self.most = max(self.most, self.now)
            weakref.finalize(out, self._gone, out.nbytes)
        return out

    def _is_kv(self, tensor: Tensor) -> bool:
        of_rows = tensor.dim() == 5 and tensor.shape[2] == self._key_heads and tensor.shape[3] % OWN_STEP_TOKENS == 0
        of_prompt = tensor.dim() == 4 and tensor.shape[1] == self._key_heads and tensor.shape[2] > FEW
        ends = tensor.shape[0] == self._layers and tensor.shape[-1] == self._size if tensor.dim() else False
        owns = tensor._base is None and tensor.untyped_storage().nbytes() == tensor.nbytes
        return ends and (of_rows or of_prompt) and owns and tensor.nbytes > 0

    def _gone(self, num_bytes: int) -> None:
        self.now -= num_bytes


@contextmanager
def held_bytes(weights: DecoderWeights) -> Iterator[HeldBytes]:
    with torch.inference_mode(), HeldBytes(weights) as held:
        yield held
