"""Who attends to what while sampling: prompts as they are read, and rows as they grow.

Legend: T tokens of the pass, B slots, H query heads, K key heads, M = H / K, D head size, P prompt columns,
S own columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_core.rollout.torch_engine.prefix_cache import PrefixNode, gather
from grpo_core.rollout.torch_engine.rows import RowBatch


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Tokens ``start:stop`` of ``node``, and the nodes before it. ``keep`` is off when only their end is wanted."""

    node: PrefixNode
    before: list[PrefixNode]
    start: int
    stop: int
    keep: bool = True

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start


class PromptAttention:
    """Causal attention over prompts, chunk by chunk, keeping their keys and values in their nodes."""

    def __init__(self, chunks: Sequence[PromptChunk], device: torch.device) -> None:
        self._chunks = chunks
        self._masks = [_causal_mask(chunk, device) for chunk in chunks]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        first = 0
        for chunk, mask in zip(self._chunks, self._masks, strict=True):
            part = slice(first, first + chunk.num_tokens)
            outputs.append(_attend_chunk(layer, chunk, mask, queries[part], keys[part], values[part]))
            first = part.stop
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _causal_mask(chunk: PromptChunk, device: torch.device) -> Tensor | None:
    """True where a token may look, [chunk, before + chunk]; None when all of a chunk's keys are new, or all visible."""
    num_before = chunk.node.start + chunk.start
    if num_before == 0 or chunk.num_tokens == 1:
        return None
    size = chunk.num_tokens
    return torch.ones(size, num_before + size, dtype=torch.bool, device=device).tril(num_before)


def _attend_chunk(
    layer: int, chunk: PromptChunk, mask: Tensor | None, queries: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    node = chunk.node
    assert node.keys is not None
    assert node.values is not None
    if chunk.keep:
        node.keys[layer, :, chunk.start : chunk.stop] = keys.transpose(0, 1)
        node.values[layer, :, chunk.start : chunk.stop] = values.transpose(0, 1)
    all_keys, all_values = node.keys[layer, :, : chunk.stop], node.values[layer, :, : chunk.stop]
    if chunk.before:
        keys_before, values_before = gather(chunk.before, layer)
        all_keys = torch.cat([keys_before, all_keys], dim=1)
        all_values = torch.cat([values_before, all_values], dim=1)
    output = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        all_keys[None],
        all_values[None],
        attn_mask=mask,
        is_causal=mask is None and chunk.num_tokens > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return output[0].transpose(0, 1).reshape(chunk.num_tokens, -1)


class Scratch:
    """Two flat buffers that every layer and step uses again; allocating them each time costs more than filling them."""

    def __init__(self) -> None:
        self._scores = torch.empty(0)
        self._weights = torch.empty(0)

    def views(self, shape: tuple[int, int, int], like: Tensor) -> tuple[Tensor, Tensor]:
        size = shape[0] * shape[1] * shape[2]
        if self._scores.numel() < size or self._scores.dtype != like.dtype or self._scores.device != like.device:
            self._scores, self._weights = like.new_empty(size), like.new_empty(size)
        return self._scores[:size].view(shape), self._weights[:size].view(shape)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Tokens ``start:stop`` of the pass read all of ``node``."""

    node: PrefixNode
    start: int
    stop: int


class RowAttention:
    """New tokens of every slot, ``counts[slot]`` of them, over the nodes that they share and what is their own.

    A node is read once for all the rows that share it. All scores of a token stand in one line, prompt columns before
    own ones, so that one softmax over the line is exact.
    """

    def __init__(self, batch: RowBatch, counts: Sequence[int], scratch: Scratch) -> None:
        self._batch = batch
        self._scratch = scratch
        device = batch.keys[0].device
        owns = [row.num_own if row is not None else 0 for row in batch.rows]
        self._num_slots, self._most = len(counts), max(counts)
        self._segments, self._num_columns = _segments(batch, counts)
        slots = [slot for slot, count in enumerate(counts) for _ in range(count)]
        offsets = [offset for count in counts for offset in range(count)]
        places = [owns[slot] + offset for slot, offset in zip(slots, offsets, strict=True)]
        shared = [row.num_shared if row is not None else 0 for row in batch.rows]
        self._slots = torch.tensor(slots, device=device)  # [T]
        self._offsets = torch.tensor(offsets, device=device)
        self._places = torch.tensor(places, device=device)  # where each token's keys go in its slot
        self.positions = self._places + torch.tensor([shared[slot] for slot in slots], device=device)
        self._width = max(places) + 1
        beyond = torch.arange(self._width, device=device) > self._places[:, None]
        self._beyond = beyond[:, None, None, :] if min(places) + 1 < self._width else None  # [T, 1, 1, S]
        self._has_gaps = any(length < self._num_columns for length in shared)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        own_keys, own_values = self._batch.keys[layer], self._batch.values[layer]
        own_keys[self._slots, :, self._places] = keys
        own_values[self._slots, :, self._places] = values
        num, heads, size = queries.shape
        key_heads = keys.shape[1]
        asked = (queries * size**-0.5).view(num, key_heads, heads // key_heads, size)
        to_own = self._own_scores(asked, own_keys)
        if self._beyond is not None:
            to_own = to_own.masked_fill_(self._beyond, float("-inf"))
        if not self._segments:
            return self._own_output(to_own.softmax(dim=-1), own_values).reshape(num, heads * size)
        scores, weights = self._scratch.views((key_heads, num * asked.shape[2], self._num_columns + self._width), asked)
        by_head = asked.transpose(0, 1).reshape(key_heads, -1, size)  # [K, T * M, D]
        self._shared_scores(layer, by_head, scores, asked.shape[2])
        lines = scores.view(key_heads, num, asked.shape[2], -1)
        lines[..., self._num_columns :] = to_own.transpose(0, 1)
        torch.softmax(scores, dim=-1, out=weights)
        shared = self._shared_output(layer, weights, by_head, asked.shape[2])
        own_weights = weights.view(lines.shape)[..., self._num_columns :].transpose(0, 1)
        output = self._own_output(own_weights, own_values) + shared.view(key_heads, num, -1, size).transpose(0, 1)
        return output.reshape(num, heads * size)

    def _shared_scores(self, layer: int, by_head: Tensor, scores: Tensor, group: int) -> None:
        if self._has_gaps:
            scores[..., : self._num_columns] = float("-inf")
        for segment in self._segments:
            node, rows = segment.node, slice(segment.start * group, segment.stop * group)
            assert node.keys is not None
            target = scores[:, rows, node.start : node.end]
            torch.bmm(by_head[:, rows], node.keys[layer].transpose(1, 2), out=target)

    def _shared_output(self, layer: int, weights: Tensor, by_head: Tensor, group: int) -> Tensor:
        output = torch.zeros_like(by_head)
        for segment in self._segments:
            node, rows = segment.node, slice(segment.start * group, segment.stop * group)
            assert node.values is not None
            output[:, rows].baddbmm_(weights[:, rows, node.start : node.end], node.values[layer])
        return output

    def _own_scores(self, asked: Tensor, own_keys: Tensor) -> Tensor:
        """[T, K, M, S] of ``asked`` [T, K, M, D]."""
        num, key_heads, group, size = asked.shape
        keys = own_keys[: self._num_slots, :, : self._width].flatten(0, 1)  # [B * K, S, D]
        if self._most == 1:
            return torch.bmm(asked.reshape(-1, group, size), keys.transpose(1, 2)).view(num, key_heads, group, -1)
        padded = asked.new_zeros(self._num_slots, key_heads, self._most, group, size)
        padded[self._slots, :, self._offsets] = asked
        scores = torch.bmm(padded.view(len(keys), -1, size), keys.transpose(1, 2))
        return scores.view(self._num_slots, key_heads, self._most, group, -1)[self._slots, :, self._offsets]

    def _own_output(self, weights: Tensor, own_values: Tensor) -> Tensor:
        """[T, K, M, D] of ``weights`` [T, K, M, S]."""
        num, key_heads, group, width = weights.shape
        values = own_values[: self._num_slots, :, : self._width].flatten(0, 1)
        if self._most == 1:
            return torch.bmm(weights.reshape(-1, group, width), values).view(num, key_heads, group, -1)
        padded = weights.new_zeros(self._num_slots, key_heads, self._most, group, width)
        padded[self._slots, :, self._offsets] = weights
        output = torch.bmm(padded.view(len(values), -1, width), values)
        return output.view(self._num_slots, key_heads, self._most, group, -1)[self._slots, :, self._offsets]


def _segments(batch: RowBatch, counts: Sequence[int]) -> tuple[list[_Segment], int]:
    """Who reads which node, and the number of prompt columns.

    Rows of one node lie side by side but for free slots, which may read along: what they compute is never looked at.
    """
    ends: dict[PrefixNode, list[list[int]]] = {}  # runs of tokens, [start, stop]
    nodes: dict[tuple[PrefixNode, int], list[PrefixNode]] = {}  # siblings read the same ones
    first = 0
    reach: dict[PrefixNode, int] = {}  # where the node's last run could be continued
    for row, count in zip(batch.rows, counts, strict=True):
        stop = first + count
        if row is not None and (row.leaf, row.num_shared) not in nodes:
            nodes[row.leaf, row.num_shared] = row.nodes()
        for node in nodes[row.leaf, row.num_shared] if row is not None else ():
            runs = ends.setdefault(node, [])
            if runs and reach[node] == first:
                runs[-1][1] = stop
            else:
                runs.append([first, stop])
            reach[node] = stop
        if row is None:
            for node, place in reach.items():
                if place == first:
                    reach[node] = stop
        first = stop
    segments = [_Segment(node, start, stop) for node, runs in ends.items() for start, stop in runs]
    return segments, max((node.end for node in ends), default=0)
