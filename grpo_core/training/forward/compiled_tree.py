"""Attention over a prefix tree by compiled code, for float32 on a CPU. Exact.

The backward pass recomputes the scores (Dao et al. 2022, FlashAttention, section 3.1): it keeps queries, keys, values,
the output and, per query and head, the log of the softmax's sum.

Legend: H query heads, K key heads, T tokens of the layout, Q those with queries, D head size.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_core.kernels.compiler import load_kernels

SOURCE = Path(__file__).with_name("tree_attention.c")
KEY_TILE = 64
LANES = 16  # the C code wants a head size that is a multiple of it
MAX_HEAD_SIZE = 256
MAX_GROUP = 64  # query heads per key head (grouped-query attention)

_Pointer = ctypes.c_void_p
_Int = ctypes.c_int64


class _Heads(ctypes.Structure):
    _fields_ = [("data", _Pointer), ("token_stride", _Int), ("head_stride", _Int)]


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("num_queries", "num_tokens", "num_heads", "num_key_heads", "head_size")),
        ("num_threads", _Int),
        *((name, _Pointer) for name in ("places", "visible_until", "min_visible_until", "max_visible_until")),
        ("scaling", ctypes.c_float),
    ]


class _Forward(ctypes.Structure):
    _fields_ = [*((name, _Heads) for name in ("queries", "keys", "values", "output")), ("log_totals", _Pointer)]


class _Backward(ctypes.Structure):
    _fields_ = [
        *((name, _Heads) for name in ("queries", "keys", "values", "output", "to_output")),
        ("log_totals", _Pointer),
        *((name, _Heads) for name in ("to_queries", "to_keys", "to_values")),
    ]


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which keys a query attends to: it sees the key at place j from place p when j <= p < visible_until[j]."""

    places: NDArray[np.int32]  # [Q] of the queries in the layout, ascending
    visible_until: NDArray[np.int32]  # [T, padded with zeros to whole tiles]
    min_visible_until: NDArray[np.int32]  # [key tiles]
    max_visible_until: NDArray[np.int32]  # [key tiles]

    @classmethod
    def of(cls, visible_until: NDArray[np.int64], places: NDArray[np.int64] | None = None) -> Visibility:
        """From ``visible_until`` [T], for queries at ``places`` [Q] or, by default, for every token."""
        padded = np.pad(visible_until, (0, -len(visible_until) % KEY_TILE)).astype(np.int32)
        tiles = padded.reshape(-1, KEY_TILE)
        chosen = np.arange(len(visible_until)) if places is None else places
        return cls(chosen.astype(np.int32), padded, tiles.min(axis=1), tiles.max(axis=1))


def has_native_attention(queries: Tensor, keys: Tensor) -> bool:
    """Whether ``NativeTreeAttention`` computes ``queries`` [B, H, Q, D] over ``keys`` [B, K, T, D] on this machine."""
    if queries.device.type != "cpu" or queries.dtype != torch.float32 or queries.shape[-1] % LANES:
        return False
    is_small = queries.shape[-1] <= MAX_HEAD_SIZE and queries.shape[1] <= MAX_GROUP * keys.shape[1]
    return is_small and load_kernels(SOURCE) is not None


class NativeTreeAttention(torch.autograd.Function):
    """``queries`` [1, H, Q, D], ``keys`` and ``values`` [1, K, T, D] to [1, Q, H, D].

    Raises:
        torch.OutOfMemoryError: the buffers for the sums do not fit into memory.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scaling: float, visibility: Visibility
    ) -> Tensor:
        q, k, v = (_rows_of(tensor) for tensor in (queries, keys, values))
        output = q.new_empty(q.shape)
        log_totals = q.new_empty(q.shape[1], q.shape[0])
        problem = _problem(q, k, scaling, visibility)
        passed = _Forward(_heads(q), _heads(k), _heads(v), _heads(output), log_totals.data_ptr())
        _call("grpo_tree_attention", problem, passed)
        ctx.save_for_backward(q, k, v, output, log_totals)
        ctx.scaling, ctx.visibility = scaling, visibility
        return output[None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, log_totals = ctx.saved_tensors
        given = _dense(gradients[0][0])
        to_q, to_v = q.new_empty(q.shape), v.new_empty(v.shape)
        to_k = k.new_empty(k.shape) if ctx.needs_input_grad[1] else None
        problem = _problem(q, k, ctx.scaling, ctx.visibility)
        read = (_heads(tensor) for tensor in (q, k, v, output, given))
        wanted = (_heads(to_q), _Heads() if to_k is None else _heads(to_k), _heads(to_v))
        _call("grpo_tree_attention_backward", problem, _Backward(*read, log_totals.data_ptr(), *wanted))
        to_keys = None if to_k is None else to_k.transpose(0, 1)[None]
        return to_q.transpose(0, 1)[None], to_keys, to_v.transpose(0, 1)[None], None, None


def _rows_of(tensor: Tensor) -> Tensor:
    """[1, heads, tokens, D] as [tokens, heads, D]: a copy only if D is strided."""
    return _dense(tensor[0].transpose(0, 1))


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _problem(queries: Tensor, keys: Tensor, scaling: float, visibility: Visibility) -> _Problem:
    num_queries, num_heads, head_size = queries.shape
    assert num_queries == len(visibility.places)
    return _Problem(
        num_queries,
        len(keys),
        num_heads,
        keys.shape[1],
        head_size,
        torch.get_num_threads(),
        visibility.places.ctypes.data,
        visibility.visible_until.ctypes.data,
        visibility.min_visible_until.ctypes.data,
        visibility.max_visible_until.ctypes.data,
        scaling,
    )


def _heads(tensor: Tensor) -> _Heads:
    return _Heads(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _call(name: str, problem: _Problem, described: ctypes.Structure) -> None:
    kernels = load_kernels(SOURCE)
    assert kernels is not None
    if getattr(kernels, name)(ctypes.byref(problem), ctypes.byref(described)):
        raise torch.OutOfMemoryError(f"attention over {problem.num_tokens} tokens: out of memory")
