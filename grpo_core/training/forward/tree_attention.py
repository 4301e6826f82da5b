"""Attention over a prefix tree: every token sees its ancestors, and its own node causally. Exact.

On a CPU, float32 runs in compiled code (``compiled_tree``). float64, and float32 without a compiler, fall back to torch
operations on blocks (``tree_blocks``). A GPU runs FlexAttention with a block mask, compiled once per bucket of lengths;
other devices run SDPA with a mask.

Legend: H query heads, K key heads, T tokens of the layout, D head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from grpo_core.training.forward.compiled_tree import NativeTreeAttention, Visibility, has_native_attention
from grpo_core.training.forward.prefix_tree import PrefixTree
from grpo_core.training.forward.tree_blocks import Block, BlockAttention, build_blocks

SMALLEST_BUCKET = 128


class TreePlan:
    """The ``AttentionPlan`` of a tree, for one row of its tokens.

    With ``needed`` [Q], ascending places in the layout, a last layer may compute those tokens' rows only.
    """

    def __init__(self, tree: PrefixTree, device: torch.device, needed: NDArray[np.int64] | None = None) -> None:
        self._tree = tree
        self._device = device
        self._needed = needed if needed is not None and len(needed) < tree.num_tokens else None

    @functools.cached_property
    def needed_rows(self) -> Tensor | None:
        """[Q] int64: the tokens whose last hidden states are needed; None for all."""
        return None if self._needed is None else torch.from_numpy(self._needed).to(self._device)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        # Under autocast, rotary embedding returns float32. SDPA casts back by itself; the kernels here do not.
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)
        if queries.device.type == "cpu" and queries.dtype != torch.float16:
            return self._on_cpu(queries, keys, values, scaling)
        if queries.device.type == "cuda":
            return flex_tree_attention(queries, keys, values, scaling, self._block_mask, compiled_flex_attention())
        output = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=self._mask, scale=scaling, enable_gqa=queries.shape[1] != keys.shape[1]
        )
        return output.transpose(1, 2)

    def _on_cpu(self, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        exact = [tensor.to(torch.promote_types(values.dtype, torch.float32)) for tensor in (queries, keys, values)]
        is_whole = queries.shape[2] == keys.shape[2]
        if has_native_attention(*exact[:2]):
            output = NativeTreeAttention.apply(
                *exact, scaling, self._visibility if is_whole else self._needed_visibility
            )
        else:
            output = BlockAttention.apply(*exact, scaling, self._blocks if is_whole else self._needed_blocks)
        assert isinstance(output, Tensor)
        return output.to(values.dtype)

    @functools.cached_property
    def _visibility(self) -> Visibility:
        return Visibility.of(self._tree.visible_until)

    @functools.cached_property
    def _needed_visibility(self) -> Visibility:
        return Visibility.of(self._tree.visible_until, self._needed)

    @functools.cached_property
    def _blocks(self) -> tuple[Block, ...]:
        return build_blocks(self._tree)

    @functools.cached_property
    def _needed_blocks(self) -> tuple[Block, ...]:
        return build_blocks(self._tree, self._needed)

    @functools.cached_property
    def _block_mask(self) -> BlockMask:
        return build_block_mask(self._tree, self._device)

    @functools.cached_property
    def _mask(self) -> Tensor:
        return tree_mask(self._tree, self._device)


def tree_mask(tree: PrefixTree, device: torch.device) -> Tensor:
    """[T, T] bool: whether the row's token sees the column's."""
    places = torch.arange(tree.num_tokens, device=device)
    visible_until = torch.from_numpy(tree.visible_until).to(device)
    return (places[None] <= places[:, None]) & (places[:, None] < visible_until[None])


def bucket(num_tokens: int) -> int:
    """The padded length for ``num_tokens``. There are four per power of two, so few kernels are ever compiled."""
    size = SMALLEST_BUCKET
    while size * 2 <= num_tokens:
        size *= 2
    step = max(SMALLEST_BUCKET, size // 4)
    return -(-num_tokens // step) * step


def build_block_mask(tree: PrefixTree, device: torch.device) -> BlockMask:
    """FlexAttention's mask of ``tree``, padded to its bucket. Padding sees itself only, and nothing sees padding."""
    size = bucket(tree.num_tokens)
    padded = np.arange(1, size + 1)
    padded[: tree.num_tokens] = tree.visible_until
    visible_until = torch.from_numpy(padded).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < visible_until[key])

    return create_block_mask(sees, None, None, size, size, device=str(device))


@functools.cache
def compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)


def flex_tree_attention(
    queries: Tensor, keys: Tensor, values: Tensor, scaling: float, mask: BlockMask, attention: Callable[..., Any]
) -> Tensor:
    """``AttentionPlan.attend`` by ``attention``: ``flex_attention``, compiled or not."""
    num_tokens, size = queries.shape[2], mask.seq_lengths[0]
    padding = (0, 0, 0, size - num_tokens)
    padded = (F.pad(tensor, padding) for tensor in (queries, keys, values))
    output = attention(*padded, block_mask=mask, scale=scaling, enable_gqa=queries.shape[1] != keys.shape[1])
    return output[:, :, :num_tokens].transpose(1, 2)
