"""Which keys each token attends to while sampling: in prefill over prompts, and in decoding over rows.

Legend: T tokens of the pass, B slots, H query heads, K key heads, M = H / K, D head size, S keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixNode, gather
from grpo_core.rollout.torch_engine.cache.rows import RowBatch
from grpo_core.rollout.torch_engine.forward.attention_math import attend_causally, attend_part


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Tokens ``start:stop`` of ``node``, and the nodes before it. Without ``keep`` no keys are stored."""

    node: PrefixNode
    before: list[PrefixNode]
    start: int
    stop: int
    keep: bool = True

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start


class PromptAttention:
    """Causal attention over prompts, chunk by chunk. Stores keys and values in the chunks' nodes."""

    def __init__(self, chunks: Sequence[PromptChunk]) -> None:
        self._chunks = chunks

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        first = 0
        for chunk in self._chunks:
            part = slice(first, first + chunk.num_tokens)
            outputs.append(_attend_chunk(layer, chunk, queries[part], keys[part], values[part]))
            first = part.stop
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _attend_chunk(layer: int, chunk: PromptChunk, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
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
    return attend_causally(queries, all_keys, all_values)


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens ``start:stop`` of the pass read all of ``node``, the first node of their prompt or a later one."""

    node: PrefixNode
    start: int
    stop: int

    @property
    def is_first(self) -> bool:
        return self.node.start == 0


@dataclass(frozen=True, slots=True)
class RowPlan:
    """One pass over new tokens of every slot, ``counts[slot]`` of them: what each reads, and where its keys are stored.

    A token sees the nodes of its ``segments``, and the keys of its slot up to its place.
    """

    counts: Sequence[int]
    slots: list[int]  # [T]
    places: list[int]  # [T], in the slot
    positions: list[int]  # [T], in the sequence
    segments: list[Segment]


def plan_pass(batch: RowBatch, counts: Sequence[int]) -> RowPlan:
    slots = [slot for slot, count in enumerate(counts) for _ in range(count)]
    owns = [row.num_own if row is not None else 0 for row in batch.rows]
    places = [owns[slot] + offset for slot, count in enumerate(counts) for offset in range(count)]
    shared = [row.num_shared if row is not None else 0 for row in batch.rows]
    positions = [place + shared[slot] for slot, place in zip(slots, places, strict=True)]
    return RowPlan(counts, slots, places, positions, _segments(batch, counts))


class RowAttention:
    """The attention of a ``RowPlan``. A node is read once for all the rows that share it.

    Each part of a token's keys gives an output and a log-sum-exp, from which the parts are merged exactly (Milakov and
    Gimelshein 2018).
    """

    def __init__(self, batch: RowBatch, plan: RowPlan) -> None:
        self._batch = batch
        device = batch.keys.device
        self._num_slots, self._most = len(plan.counts), max(plan.counts)
        self._segments = plan.segments
        offsets = [offset for count in plan.counts for offset in range(count)]
        self._slots = torch.tensor(plan.slots, device=device)  # [T]
        self._offsets = torch.tensor(offsets, device=device)
        self._places = torch.tensor(plan.places, device=device)
        self.positions = torch.tensor(plan.positions, device=device)
        self._width = max(plan.places) + 1
        self._bias = self._own_bias(min(plan.places) + 1 == self._width)

    def _own_bias(self, sees_all: bool) -> Tensor | None:
        """The mask over the slots' keys, 0 or -inf, [B, 1, most, S]; None when nothing is masked."""
        if sees_all and self._most == 1:
            return None
        dtype, device = self._batch.keys.dtype, self._slots.device
        last = torch.zeros(self._num_slots, self._most, dtype=torch.long, device=device)  # padding sees the first key
        last[self._slots, self._offsets] = self._places
        beyond = torch.arange(self._width, device=device) > last[..., None]
        bias = torch.zeros(beyond.shape, dtype=dtype, device=device).masked_fill_(beyond, float("-inf"))
        return bias[:, None]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        own_keys, own_values = self._batch.keys[layer], self._batch.values[layer]
        own_keys[self._slots, :, self._places] = keys
        own_values[self._slots, :, self._places] = values
        num, heads, size = queries.shape
        asked = queries.reshape(num, keys.shape[1], -1, size)  # [T, K, M, D]
        output, weight = self._attend_own(asked, own_keys, own_values)
        if self._segments:
            shared, shared_weight = self._attend_shared(layer, asked)
            share = torch.sigmoid(shared_weight - weight)[..., None]
            output = torch.lerp(output, shared, share.to(output.dtype))
        return output.reshape(num, heads * size)

    def _attend_own(self, asked: Tensor, own_keys: Tensor, own_values: Tensor) -> tuple[Tensor, Tensor]:
        """Output [T, K, M, D] and log-weight [T, K, M] of each token's own keys."""
        _, key_heads, group, size = asked.shape
        keys, values = (own[: self._num_slots, :, : self._width] for own in (own_keys, own_values))
        if self._most == 1:
            return attend_part(asked, keys, values, self._bias)
        padded = asked.new_zeros(self._num_slots, key_heads, self._most, group, size)
        padded[self._slots, :, self._offsets] = asked
        assert self._bias is not None
        bias = self._bias.repeat_interleave(group, dim=2)
        output, weight = attend_part(padded.flatten(2, 3), keys, values, bias)
        by_token = (self._slots, slice(None), self._offsets)
        return output.unflatten(2, (-1, group))[by_token], weight.unflatten(2, (-1, group))[by_token]

    def _attend_shared(self, layer: int, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Output [T, K, M, D] and log-weight [T, K, M] of the nodes that each token reads; -inf where it reads none."""
        num, key_heads, group, size = asked.shape
        by_head = asked.transpose(0, 1).reshape(1, key_heads, num * group, size)
        only = self._segments[0]
        if len(self._segments) == 1 and only.stop - only.start == num:
            output, weight = _attend_node(layer, only.node, by_head)
        else:
            output, weight = self._attend_nodes(layer, by_head, group)
        shape = (key_heads, num, group)
        return output.view(*shape, size).transpose(0, 1), weight.view(shape).transpose(0, 1)

    def _attend_nodes(self, layer: int, by_head: Tensor, group: int) -> tuple[Tensor, Tensor]:
        output = torch.zeros_like(by_head)
        weight = by_head.new_full(by_head.shape[:-1], float("-inf"), dtype=torch.float32)
        for segment in self._segments:
            rows = slice(segment.start * group, segment.stop * group)
            part, part_weight = _attend_node(layer, segment.node, by_head[:, :, rows])
            if not segment.is_first:
                share = torch.sigmoid(part_weight - weight[:, :, rows])[..., None]
                part = torch.lerp(output[:, :, rows], part, share.to(part.dtype))
                part_weight = torch.logaddexp(weight[:, :, rows], part_weight)
            output[:, :, rows], weight[:, :, rows] = part, part_weight
        return output, weight


def _attend_node(layer: int, node: PrefixNode, queries: Tensor) -> tuple[Tensor, Tensor]:
    """``attend_part`` of ``queries`` [1, K, Q, D] over all of ``node``."""
    assert node.keys is not None
    assert node.values is not None
    return attend_part(queries, node.keys[None, layer], node.values[None, layer], None)


def _segments(batch: RowBatch, counts: Sequence[int]) -> list[Segment]:
    """Which rows read which node, the first nodes of all prompts before later ones.

    Rows of one node are adjacent except for free slots, which may read along: their output is never used.
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
    segments = [Segment(node, start, stop) for node, runs in ends.items() for start, stop in runs]
    return sorted(segments, key=lambda segment: segment.node.start)
