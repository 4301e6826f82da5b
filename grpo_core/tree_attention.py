"""Attention over a prefix tree: every token sees its ancestors, and its own node causally. Exact.

On a CPU a node's tokens attend to themselves in one block, and all that lies below the node, which is contiguous,
attends to it in another. The blocks' results are merged by their log-sum-exp (Milakov & Gimelshein 2018; Dao et al.
2022, section 3.1), so no key is read for a token that does not see it, and none of a shared prompt twice. Given the
merged output and log-sum-exp the backward pass of each block is exact by itself. On a GPU it is FlexAttention with a
block mask, compiled once per bucket of lengths; elsewhere SDPA with a mask.

Legend: H query heads, K key heads, T tokens of the layout, D head size, L tokens of a block, n blocks of a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from grpo_core.dense import linear
from grpo_core.prefix_tree import Node, PrefixTree

MAX_BLOCK_TOKENS = 256  # longer runs become chains: the kernel computes a causal block's upper half in part
SMALLEST_BUCKET = 128

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class TreePlan:
    """The ``AttentionPlan`` of a tree, for one row of its tokens."""

    def __init__(self, tree: PrefixTree, device: torch.device) -> None:
        self._tree = tree
        self._device = device

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        # Under autocast the rotation makes float32 of them, which SDPA would undo itself.
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)
        if queries.device.type == "cpu" and queries.dtype != torch.float16:
            return _BlockAttention.apply(queries, keys, values, scaling, self._blocks)  # pyright: ignore[reportReturnType]
        if queries.device.type == "cuda":
            return flex_tree_attention(queries, keys, values, scaling, self._block_mask, compiled_flex_attention())
        output = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=self._mask, scale=scaling, enable_gqa=queries.shape[1] != keys.shape[1]
        )
        return output.transpose(1, 2)

    @functools.cached_property
    def _blocks(self) -> Blocks:
        return Blocks.of(self._tree)

    @functools.cached_property
    def _block_mask(self) -> BlockMask:
        return build_block_mask(self._tree, self._device)

    @functools.cached_property
    def _mask(self) -> Tensor:
        return tree_mask(self._tree, self._device)


def tree_mask(tree: PrefixTree, device: torch.device) -> Tensor:
    """[T, T]: whether the token of the row sees that of the column."""
    places = torch.arange(tree.num_tokens, device=device)
    visible_until = torch.from_numpy(tree.visible_until).to(device)
    return (places[None] <= places[:, None]) & (places[:, None] < visible_until[None])


def bucket(num_tokens: int) -> int:
    """The padded length for ``num_tokens``: four to every doubling, so that few are ever compiled."""
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
    """``AttentionPlan.attend`` by ``attention``, which is ``flex_attention`` or that compiled."""
    num_tokens, size = queries.shape[2], mask.seq_lengths[0]
    padding = (0, 0, 0, size - num_tokens)
    padded = (F.pad(tensor, padding) for tensor in (queries, keys, values))
    output = attention(*padded, block_mask=mask, scale=scaling, enable_gqa=queries.shape[1] != keys.shape[1])
    return output[:, :, :num_tokens].transpose(1, 2)


@dataclass(frozen=True, slots=True)
class CausalBatch:
    """Runs of similar length, each over itself. Short ones repeat their last token, which their others do not see."""

    places: Tensor  # [n * L] int64, in the layout
    real: Tensor | None  # indices into ``places``: each token of the layout once; None when there is no padding
    is_padding: Tensor | None  # [n, 1, L, 1]
    num_blocks: int

    @property
    def real_places(self) -> Tensor:
        return self.places if self.real is None else self.places[self.real]


@dataclass(frozen=True, slots=True)
class BelowBlock:
    """All that lies below a run, over the run."""

    keys: slice
    queries: slice


@dataclass(frozen=True, slots=True)
class Blocks:
    """Attention of a whole tree: each token is in one causal block, and below each of its ancestors."""

    causal: tuple[CausalBatch, ...]
    below: tuple[BelowBlock, ...]

    @classmethod
    def of(cls, tree: PrefixTree) -> Blocks:
        runs = [run for node in tree.nodes for run in _chain(node)]
        by_length: dict[int, list[BelowBlock]] = {}
        for run in runs:
            by_length.setdefault(_rounded(run.keys.stop - run.keys.start), []).append(run)
        return cls(
            tuple(_causal_batch([run.keys for run in batch]) for batch in by_length.values()),
            tuple(run for run in runs if run.queries.stop > run.queries.start),
        )


def _chain(node: Node) -> Iterator[BelowBlock]:
    """``node`` as runs of at most ``MAX_BLOCK_TOKENS``, each the parent of the next."""
    num = -(-node.num_tokens // MAX_BLOCK_TOKENS)
    edges = np.linspace(node.start, node.end, num + 1).astype(int).tolist()
    for start, end in pairwise(edges):
        yield BelowBlock(slice(start, end), slice(end, node.subtree_end))


def _rounded(num_tokens: int) -> int:
    """Lengths that are computed together."""
    step = max(16, 1 << max(0, num_tokens.bit_length() - 3))
    return -(-num_tokens // step) * step


def _causal_batch(runs: list[slice]) -> CausalBatch:
    size = max(run.stop - run.start for run in runs)
    starts = np.array([run.start for run in runs])[:, None]
    stops = np.array([run.stop for run in runs])[:, None]
    places = starts + np.arange(size)
    is_real = places < stops
    places = torch.from_numpy(np.minimum(places, stops - 1).reshape(-1))
    if is_real.all():
        return CausalBatch(places, None, None, len(runs))
    real = torch.from_numpy(np.flatnonzero(is_real))
    return CausalBatch(places, real, torch.from_numpy(~is_real)[:, None, :, None], len(runs))


class _BlockAttention(torch.autograd.Function):
    """Inputs and output as ``AttentionPlan.attend``, of one row. Inside, tokens come first: [T, heads, D]."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scaling: float, blocks: Blocks) -> Tensor:
        q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (queries, keys, values))
        output = torch.empty_like(q)  # [T, H, D]
        lse = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))  # [T, H]
        for batch in blocks.causal:
            found = _flash(*(_batched(tensor, batch) for tensor in (q, k, v)), 0.0, True, scale=scaling)
            output.index_copy_(0, batch.real_places, _unbatched(found[0], batch))
            lse.index_copy_(0, batch.real_places, _unbatched(found[1], batch).to(lse.dtype))
        for block in blocks.below:
            own, above = slice(block.queries.start, block.queries.stop), block.keys
            folded = _folded(q[own], k.shape[1])
            found = _flash(folded, _row(k[above]), _row(v[above]), 0.0, False, scale=scaling)
            _merge(output[own], lse[own], _unfolded(found[0], q[own]), _unfolded(found[1], q[own][..., 0]))
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.scaling, ctx.blocks = scaling, blocks
        return output[None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, lse = ctx.saved_tensors
        to_output = gradients[0][0].contiguous()
        to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for batch in ctx.blocks.causal:
            inputs = [_batched(tensor, batch) for tensor in (to_output, q, k, v, output, lse)]
            if batch.is_padding is not None:
                inputs[0].masked_fill_(batch.is_padding, 0.0)
            found = _flash_backward(*inputs, 0.0, True, scale=ctx.scaling)
            for target, part in zip((to_q, to_k, to_v), found, strict=True):
                target.index_copy_(0, batch.real_places, _unbatched(part, batch))
        for block in ctx.blocks.below:
            own, above = block.queries, block.keys
            by_head = [_folded(tensor[own], k.shape[1])[0] for tensor in (to_output, q, output, lse)]
            by_head += [_row(tensor[above])[0].contiguous() for tensor in (k, v)]
            parts = [_below_backward(*tensors, scaling=ctx.scaling) for tensors in zip(*by_head, strict=True)]
            from_q, from_k, from_v = (torch.stack(part) for part in zip(*parts, strict=True))
            to_q[own] += _unfolded(from_q[None], q[own])
            to_k[above] += from_k.transpose(0, 1)
            to_v[above] += from_v.transpose(0, 1)
        results = (tensor.transpose(0, 1)[None] for tensor in (to_q, to_k, to_v))
        return (*results, None, None)


def _below_backward(
    to_output: Tensor, queries: Tensor, output: Tensor, lse: Tensor, keys: Tensor, values: Tensor, *, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the queries [M, D] below a run of L tokens, and of its ``keys`` and ``values`` [L, D].

    Dao et al. 2022, algorithm 4, a block at a time. Four of its five products go through the fastest kernel.
    """
    if queries.dtype not in (torch.float32, torch.float64):  # scores need more digits than such products keep
        rows = (tensor[None, None] for tensor in (to_output, queries, keys, values, output, lse))
        from_q, from_k, from_v = _flash_backward(*rows, 0.0, False, scale=scaling)
        return from_q[0, 0], from_k[0, 0], from_v[0, 0]
    # Transposed, [L, M]: so both sums over the queries are products with their transpose, which the kernel likes.
    weights = linear(keys, queries).mul_(scaling).sub_(lse).exp_()
    to_scores = linear(values, to_output).sub_(torch.linalg.vecdot(to_output, output)).mul_(weights).mul_(scaling)
    return to_scores.t() @ keys, linear(to_scores, queries.t()), linear(weights, to_output.t())


def _batched(tensor: Tensor, batch: CausalBatch) -> Tensor:
    """[T, heads, ...] -> [n, heads, L, ...]."""
    picked = tensor.index_select(0, batch.places)
    return picked.unflatten(0, (batch.num_blocks, -1)).transpose(1, 2)


def _unbatched(tensor: Tensor, batch: CausalBatch) -> Tensor:
    """[n, heads, L, ...] -> [real, heads, ...]."""
    flat = tensor.transpose(1, 2).flatten(0, 1)
    return flat if batch.real is None else flat[batch.real]


def _row(tensor: Tensor) -> Tensor:
    """[L, heads, D] -> [1, heads, L, D]."""
    return tensor.transpose(0, 1)[None]


def _folded(tensor: Tensor, num_key_heads: int) -> Tensor:
    """[L, H, ...] -> [1, K, (H / K) * L, ...]: the queries of all heads that share a key head are one block."""
    by_key_head = tensor.unflatten(1, (num_key_heads, -1)).movedim(0, 2)
    return by_key_head.flatten(1, 2)[None]


def _unfolded(tensor: Tensor, like: Tensor) -> Tensor:
    """The inverse of ``_folded``, of the shape of ``like``."""
    by_key_head = tensor[0].unflatten(1, (-1, len(like)))
    return by_key_head.movedim(2, 0).reshape(like.shape)


def _merge(output: Tensor, lse: Tensor, other_output: Tensor, other_lse: Tensor) -> None:
    """Add the keys of another block to ``output`` [L, H, D] and ``lse`` [L, H], in place."""
    total = torch.logaddexp(lse, other_lse)
    output.mul_((lse - total).exp_()[..., None].to(output.dtype))
    output.add_(other_output * (other_lse - total).exp_()[..., None].to(output.dtype))
    lse.copy_(total)
