"""The forward pass of Qwen2, Qwen3 and Llama over a flat list of tokens. The caller's ``Attention`` masks.

Legend: T tokens of this pass, H query heads, K key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_core.kernels.linear import linear
from grpo_core.rollout.torch_engine.weights.adapters import RowUpdates, apply_linear
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights, LayerWeights


class Attention(Protocol):
    """Which keys each token of one pass sees, and where its own keys are stored."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``queries`` [T, H, D], ``keys`` and ``values`` [T, K, D], rotated; returns [T, H * D]."""
        ...


def forward(
    weights: DecoderWeights,
    token_ids: Tensor,
    positions: Tensor,
    attention: Attention,
    updates: Sequence[RowUpdates] = (),
) -> Tensor:
    """Hidden states [T, hidden], normalised for the head, of ``token_ids`` [T] at ``positions`` [T]."""
    hidden = weights.embedding[token_ids]
    angles = positions[:, None].float() * weights.inverse_frequencies
    cosine = (angles.cos() * weights.rotary_scaling).to(hidden.dtype)
    sine = (angles.sin() * weights.rotary_scaling).to(hidden.dtype)
    cosine = torch.cat([cosine, cosine], dim=-1)[:, None]  # [T, 1, D]
    sine = torch.cat([-sine, sine], dim=-1)[:, None]
    for index, layer in enumerate(weights.layers):
        normed = F.rms_norm(hidden, hidden.shape[-1:], layer.attention_norm, weights.epsilon)
        queries, keys, values = _queries_keys_values(weights, index, normed, cosine, sine, updates)
        attended = attention.attend(index, queries, keys, values)
        hidden = hidden + apply_linear(attended, layer.output, (index, "output"), updates)
        normed = F.rms_norm(hidden, hidden.shape[-1:], layer.mlp_norm, weights.epsilon)
        hidden = hidden + _mlp(layer, index, normed, updates)
    return F.rms_norm(hidden, hidden.shape[-1:], weights.final_norm, weights.epsilon)


def _queries_keys_values(
    weights: DecoderWeights, index: int, x: Tensor, cosine: Tensor, sine: Tensor, updates: Sequence[RowUpdates]
) -> tuple[Tensor, Tensor, Tensor]:
    layer, num_heads, num_key_heads = weights.layers[index], weights.num_heads, weights.num_key_heads
    qkv = apply_linear(x, layer.qkv, (index, "qkv"), updates).view(len(x), -1, weights.head_size)
    rotating = qkv[:, : num_heads + num_key_heads]
    if layer.query_norm is not None and layer.key_norm is not None:
        size = (weights.head_size,)
        queries = F.rms_norm(rotating[:, :num_heads], size, layer.query_norm, weights.epsilon)
        keys = F.rms_norm(rotating[:, num_heads:], size, layer.key_norm, weights.epsilon)
        rotating = torch.cat([queries, keys], dim=1)
    rotated = _rotate(rotating, cosine, sine)
    return rotated[:, :num_heads], rotated[:, num_heads:], qkv[:, num_heads + num_key_heads :]


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding of ``x`` [T, heads, D], halves paired (Su et al. 2021); ``sine`` has its signs.

    ``decode.c`` rotates one head in place, and ``training/forward/layers/rotary.py`` has a gradient: three layouts of
    one formula, each the fastest where it stands, so they do not share code.
    """
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, dims=-1), sine)


def _mlp(layer: LayerWeights, index: int, x: Tensor, updates: Sequence[RowUpdates]) -> Tensor:
    gate, up = apply_linear(x, layer.gate_up, (index, "gate_up"), updates).chunk(2, dim=-1)
    return apply_linear(F.silu(gate).mul_(up), layer.down, (index, "down"), updates)


def apply_head(weights: DecoderWeights, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
    """Logits [B, V] of ``hidden`` [B, hidden]; with ``ids`` [C] those of these ids only, [B, C]."""
    weight, bias = weights.head.weight, weights.head.bias
    if ids is None:
        return linear(hidden, weight, bias)
    # Few ids, and a new number of them each time: the fast product would compile a kernel for each.
    return F.linear(hidden, weight[ids], None if bias is None else bias[ids])
