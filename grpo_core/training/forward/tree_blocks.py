"""Attention over a prefix tree on a CPU, by blocks of queries that see about the same keys. Exact.

A node's tokens are split into runs. A run sees all tokens before it on its path, and itself causally. Runs of siblings
share a path, and are merged into one block. A block computes the scores of all keys that its queries see at once, so
its softmax needs no merging. Within the block, the upper triangle of a run and the parts of its siblings are computed
and masked out: wasted work, but one large matrix product beats many small ones. The backward pass recomputes the scores
(Dao et al. 2022, FlashAttention, section 3.1), so it keeps queries, keys and values only. The seven products, two
forward and five backward, have shapes for which ``kernels.linear`` is fast.

Legend: H query heads, K key heads, M = H / K, T tokens of the layout, Q those with queries, D head size, L queries of a
block and S keys that it sees, both padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_core.kernels.linear import linear
from grpo_core.kernels.private_ops import softmax_backward
from grpo_core.training.forward.prefix_tree import PrefixTree

MAX_RUN_TOKENS = 256  # half of a run's scores with itself are masked out, but small products are slow
MIN_BLOCK_TOKENS = 128  # siblings are always merged up to this size,
MAX_SIBLING_SHARE = 1 / 3  # and beyond it while they have at most this share of their path's tokens
QUERY_STEP, KEY_STEP = 32, 64  # blocks are padded to multiples, so that oneDNN compiles kernels for few shapes


@dataclass(frozen=True, slots=True)
class Run:
    """Some tokens of a node, and those before them on its path."""

    own: slice
    path: tuple[slice, ...]  # ascending; adjacent ranges are joined
    queries: NDArray[np.int64]  # places of its tokens that have queries


@dataclass(frozen=True, slots=True)
class Block:
    """The queries of runs that share a path, and the keys of the path and the runs.

    Queries are padded with the first of all, keys with zeros; results for the padding are dropped.
    """

    keys: tuple[slice, ...]  # in the layout
    num_path: int  # of the keys
    num_keys: int  # S
    rows: Tensor  # [L] indices into the Q queries
    num_rows: int  # of them without the padding
    mask: Tensor  # [L, 1, S - num_path] float32, of the keys after the path: -inf where a query does not see it, else 0


def build_blocks(tree: PrefixTree, with_queries: NDArray[np.int64] | None = None) -> tuple[Block, ...]:
    """Blocks for the queries of all tokens, or of those at the places ``with_queries`` [Q], which ascend."""
    chosen = np.arange(tree.num_tokens) if with_queries is None else with_queries
    by_path: dict[tuple[tuple[int, int], ...], list[Run]] = {}
    for run in _runs(tree, chosen):
        by_path.setdefault(tuple((part.start, part.stop) for part in run.path), []).append(run)
    return tuple(_block(part, chosen) for runs in by_path.values() for part in _parts(runs))


def _runs(tree: PrefixTree, chosen: NDArray[np.int64]) -> Iterator[Run]:
    for node in tree.nodes:
        above = [slice(tree.nodes[index].start, tree.nodes[index].end) for index in node.path[:-1]]
        edges = [*range(node.start, node.end, MAX_RUN_TOKENS), node.end]
        for start, end in pairwise(edges):
            first, last = np.searchsorted(chosen, (start, end))
            if last > first:
                yield Run(slice(start, end), _joined([*above, slice(node.start, start)]), chosen[first:last])


def _joined(parts: Sequence[slice]) -> tuple[slice, ...]:
    """``parts`` without empty ones; adjacent ones are joined."""
    joined: list[slice] = []
    for part in parts:
        if part.stop == part.start:
            continue
        if joined and joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return tuple(joined)


def _num_tokens(parts: Sequence[slice]) -> int:
    return sum(part.stop - part.start for part in parts)


def _parts(runs: Sequence[Run]) -> Iterator[Sequence[Run]]:
    """``runs``, which share a path, grouped into blocks."""
    most = max(MIN_BLOCK_TOKENS, MAX_SIBLING_SHARE * _num_tokens(runs[0].path))
    first, total = 0, 0
    for index, run in enumerate(runs):
        size = _num_tokens([run.own])
        if index > first and total + size > most:
            yield runs[first:index]
            first, total = index, 0
        total += size
    yield runs[first:]


def _block(runs: Sequence[Run], chosen: NDArray[np.int64]) -> Block:
    path, own = runs[0].path, [run.own for run in runs]
    num_path, num_own = _num_tokens(path), _num_tokens(own)
    num_keys = -(-(num_path + num_own) // KEY_STEP) * KEY_STEP
    queries = np.concatenate([run.queries for run in runs])
    starts = np.repeat([run.own.start for run in runs], [len(run.queries) for run in runs])
    places = np.concatenate([np.arange(part.start, part.stop) for part in own])
    more = (0, -len(queries) % QUERY_STEP)
    mask = np.full((len(queries) + more[1], num_keys - num_path), -np.inf, dtype=np.float32)
    mask[: len(queries), :num_own][(places >= starts[:, None]) & (places <= queries[:, None])] = 0.0
    mask[len(queries) :] = 0.0  # so that the padding has a finite softmax
    return Block(
        keys=_joined([*path, *own]),
        num_path=num_path,
        num_keys=num_keys,
        rows=torch.from_numpy(np.pad(np.searchsorted(chosen, queries), more)),
        num_rows=len(queries),
        mask=torch.from_numpy(mask)[:, None],
    )


class BlockAttention(torch.autograd.Function):
    """``queries`` [1, H, Q, D], ``keys`` and ``values`` [1, K, T, D] to [1, Q, H, D], float32 or float64."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scaling: float, blocks: tuple[Block, ...]
    ) -> Tensor:
        k, v = keys[0].contiguous(), values[0].contiguous()  # [K, T, D]
        q = _by_key_head(queries[0].transpose(0, 1), len(k)).mul_(scaling)  # [K, Q, M, D]
        output = q.new_empty(q.shape[1], len(k), *q.shape[2:])  # [Q, K, M, D]
        for block in blocks:
            for head, heads in enumerate(zip(q, k, v, strict=True)):
                seen = _Seen(block, *heads)
                output[:, head].index_copy_(0, block.rows[: block.num_rows], seen.output())
        ctx.save_for_backward(q, k, v)
        ctx.scaling, ctx.blocks = scaling, blocks
        return output.flatten(1, 2)[None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        to_output = _by_key_head(gradients[0][0], len(k))
        to_q = q.new_empty(q.shape[1], len(k), *q.shape[2:])
        to_v = v.new_zeros(len(v), v.shape[2], v.shape[1])  # [K, D, T]
        to_k = torch.zeros_like(to_v) if ctx.needs_input_grad[1] else None
        for block in ctx.blocks:
            for head, heads in enumerate(zip(q, k, v, strict=True)):
                seen = _Seen(block, *heads)
                from_q = seen.backward(to_output[head], None if to_k is None else to_k[head], to_v[head])
                to_q[:, head].index_copy_(0, block.rows[: block.num_rows], from_q)
        to_queries = to_q.mul_(ctx.scaling).flatten(1, 2).transpose(0, 1)[None]
        return to_queries, None if to_k is None else to_k.mT[None], to_v.mT[None], None, None


def _by_key_head(tensor: Tensor, num_key_heads: int) -> Tensor:
    """A copy of [Q, H, D] as [K, Q, M, D]."""
    return tensor.unflatten(1, (num_key_heads, -1)).transpose(0, 1).clone(memory_format=torch.contiguous_format)


class _Seen:
    """The attention of one block for one key head: its queries, and the keys and values that they see."""

    def __init__(self, block: Block, queries: Tensor, keys: Tensor, values: Tensor) -> None:
        """Of ``queries`` [Q, M, D], ``keys`` and ``values`` [T, D]."""
        self._block = block
        self._queries = queries[block.rows].flatten(0, 1)  # [L * M, D]
        self._keys, self._values = (_picked(tensor, block) for tensor in (keys, values))  # [S, D]
        scores = linear(self._queries, self._keys)
        scores.view(len(block.rows), -1, block.num_keys)[:, :, block.num_path :].add_(block.mask)
        self._weights = torch.softmax(scores, dim=-1)  # [L * M, S]

    def output(self) -> Tensor:
        """[num_rows, M, D]."""
        return self._by_token(linear(self._weights, self._values.t()))

    def backward(self, to_output: Tensor, to_keys: Tensor | None, to_values: Tensor) -> Tensor:
        """The gradient of the queries [num_rows, M, D] by that of the output, ``to_output`` [Q, M, D].

        Those of keys and values are added to ``to_keys`` and ``to_values`` [D, T].
        """
        given = to_output[self._block.rows]
        given[self._block.num_rows :] = 0.0
        given = given.flatten(0, 1)
        self._add_sums(given, self._weights, to_values)
        to_scores = linear(given, self._values)
        softmax_backward(to_scores, self._weights, -1, to_scores.dtype, grad_input=to_scores)
        if to_keys is not None:
            self._add_sums(self._queries, to_scores, to_keys)
        return self._by_token(linear(to_scores, self._keys.t()))

    def _add_sums(self, rows: Tensor, weights: Tensor, target: Tensor) -> None:
        """Add rows^T weights of ``rows`` [L * M, D], ``weights`` [L * M, S] to the seen keys of ``target`` [D, T]."""
        sums = linear(rows.t().contiguous(), weights.t())
        start = 0
        for part in self._block.keys:
            size = part.stop - part.start
            target[:, part] += sums[:, start : start + size]
            start += size

    def _by_token(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (len(self._block.rows), -1))[: self._block.num_rows]


def _picked(tensor: Tensor, block: Block) -> Tensor:
    """The rows that ``block`` sees, padded with zeros: [T, D] -> [S, D]."""
    parts = [tensor[part] for part in block.keys]
    num_more = block.num_keys - sum(map(len, parts))
    return torch.cat([*parts, tensor.new_zeros(num_more, tensor.shape[-1])])
