"""The sequences that decode together, and the part of the KV cache that each of them has alone.

A row reads shared parts of its prompt from the prefix cache, and stores what follows in its slot of a preallocated
tensor. Short or unshared ends of a prompt are copied into the slot: one dense product over all slots costs less than
one per node.

Legend: L layers, B slots, K key heads, S own tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_core.rollout.sequence import SequenceState
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixNode, gather
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights

MIN_SHARED_TOKENS = 64  # shorter ends of a prompt are copied into the slots of their rows
MAX_COPIED_TOKENS = 1024  # so are longer ones, up to this, when a single row reads them
COMPACT_BELOW = 0.75  # free slots are removed once fewer than this share is in use
OWN_STEP_TOKENS = 16  # slots grow by multiples of this


@dataclass(eq=False)
class Row:
    """A sequence in its slot. Keys of positions below ``num_shared`` are in nodes of the prefix cache, the rest in the
    slot."""

    sequence: SequenceState
    leaf: PrefixNode
    num_shared: int
    num_own: int  # own tokens whose keys and values are computed
    max_own: int

    def nodes(self) -> list[PrefixNode]:
        """The nodes of the prefix cache that it reads. They change when a node is split."""
        return [node for node in self.leaf.path() if node.end <= self.num_shared]


def plan_rows(sequences: Sequence[tuple[SequenceState, PrefixNode]]) -> list[Row]:
    """Rows for sequences with prefilled prompts. Decides which part of each prompt is read from the shared cache."""
    num_readers: dict[PrefixNode, int] = {}
    for _, leaf in sequences:
        for node in leaf.path():
            num_readers[node] = num_readers.get(node, 0) + 1
    rows: list[Row] = []
    for sequence, leaf in sequences:
        nodes = leaf.path()
        while nodes and _is_copied(nodes[-1], len(sequence.request.prompt_ids), num_readers[nodes[-1]]):
            nodes.pop()
        num_shared = nodes[-1].end if nodes else 0
        num_copied = len(sequence.request.prompt_ids) - num_shared
        rows.append(Row(sequence, leaf, num_shared, num_copied, num_copied + sequence.budget))
    return rows


def _is_copied(node: PrefixNode, num_prompt: int, num_readers: int) -> bool:
    if num_readers == 1:
        return num_prompt - node.start <= MAX_COPIED_TOKENS
    return num_prompt - node.start < MIN_SHARED_TOKENS


class RowBatch:
    """Slots for rows. ``keys`` and ``values`` are [L, B, K, S, D]; ``rows[slot]`` is None where free."""

    def __init__(self, weights: DecoderWeights) -> None:
        self.weights = weights  # of all its rows
        self.max_own = 0  # tokens of the longest slot so far
        self.rows: list[Row | None] = []
        self.keys = self.values = self._slots(0, 0)

    @property
    def num_rows(self) -> int:
        return sum(row is not None for row in self.rows)

    @property
    def num_bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def add(self, rows: Sequence[Row]) -> None:
        """Give every row a slot, siblings next to each other, and copy the ends of the prompts that are not shared."""
        self._reserve(len(rows), max(row.max_own for row in rows))
        slots = self._free_run(len(rows))
        for slot, row in zip(slots, rows, strict=True):
            self.rows[slot] = row
        copied: dict[tuple[PrefixNode, int], list[int]] = {}
        for slot, row in zip(slots, rows, strict=True):
            if row.num_own:
                copied.setdefault((row.leaf, row.num_shared), []).append(slot)
        for (leaf, num_shared), targets in copied.items():
            self._copy_prompt([node for node in leaf.path() if node.start >= num_shared], targets)

    def remove(self, row: Row) -> None:
        self.rows[self.rows.index(row)] = None

    def wipe(self, row: Row) -> None:
        """Zero the slot of ``row``: NaN or infinity in it would reach the next row in that slot."""
        slot = self.rows.index(row)
        self.keys[:, slot] = 0
        self.values[:, slot] = 0

    def take_from(self, other: RowBatch) -> None:
        """Move all rows of ``other`` here, with their keys and values."""
        moved = [(slot, row) for slot, row in enumerate(other.rows) if row is not None]
        if moved:
            self._reserve(len(moved), max(row.max_own for _, row in moved))
            slots = self._free_run(len(moved))
            for slot, (source, row) in zip(slots, moved, strict=True):
                self.rows[slot] = row
                self.keys[:, slot, :, : row.num_own] = other.keys[:, source, :, : row.num_own]
                self.values[:, slot, :, : row.num_own] = other.values[:, source, :, : row.num_own]
        other.clear()

    def clear(self) -> None:
        self.rows, self.max_own = [], 0
        self.keys = self.values = self._slots(0, 0)

    def compact(self) -> None:
        """Remove free slots once they are many; free the memory when no row is left."""
        num_rows = self.num_rows
        if num_rows == 0:
            self.clear()
        elif num_rows < COMPACT_BELOW * len(self.rows):
            kept = [slot for slot, row in enumerate(self.rows) if row is not None]
            index = torch.tensor(kept, device=self.keys.device)
            self.rows = [self.rows[slot] for slot in kept]
            self.keys = self.keys[:, index]
            self.values = self.values[:, index]

    def _reserve(self, num_rows: int, max_own: int) -> None:
        """Room for ``num_rows`` more, of up to ``max_own`` own tokens."""
        self.max_own = max(self.max_own, max_own)
        size = rounded_tokens(self.max_own)
        if self.keys.shape[3] >= size and self._has_free_run(num_rows):
            return
        kept = [slot for slot, row in enumerate(self.rows) if row is not None]
        self.keys, self.values = (self._grown(tensor, kept, num_rows, size) for tensor in (self.keys, self.values))
        self.rows = [self.rows[slot] for slot in kept] + [None] * num_rows

    def _grown(self, old: Tensor, kept: list[int], num_more: int, size: int) -> Tensor:
        grown = self._slots(len(kept) + num_more, size)
        if kept:
            grown[:, : len(kept), :, : old.shape[3]] = old[:, torch.tensor(kept, device=old.device)]
        return grown

    def _slots(self, num_slots: int, size: int) -> Tensor:
        """Zeros: attention multiplies unused positions by a weight of 0, so they must not be NaN."""
        weights = self.weights
        shape = (len(weights.layers), num_slots, weights.num_key_heads, size, weights.head_size)
        return weights.embedding.new_zeros(shape)

    def _has_free_run(self, size: int) -> bool:
        return _find_run(self.rows, size) is not None

    def _free_run(self, size: int) -> list[int]:
        start = _find_run(self.rows, size)
        assert start is not None
        return list(range(start, start + size))

    def _copy_prompt(self, nodes: list[PrefixNode], slots: list[int]) -> None:
        for layer in range(len(self.keys)):
            keys, values = gather(nodes, layer)
            index = torch.tensor(slots, device=keys.device)
            self.keys[layer, index, :, : keys.shape[1]] = keys
            self.values[layer, index, :, : values.shape[1]] = values


def rounded_tokens(num_tokens: int) -> int:
    """Tokens of a slot that holds ``num_tokens``."""
    return -(-num_tokens // OWN_STEP_TOKENS) * OWN_STEP_TOKENS


def _find_run(rows: Sequence[Row | None], size: int) -> int | None:
    """The first of ``size`` adjacent free slots; None without."""
    length = 0
    for slot, row in enumerate(rows):
        length = length + 1 if row is None else 0
        if length == size:
            return slot - size + 1
    return None


class RowBatches:
    """All running rows. Those with the same weights are one batch, and decode in one pass."""

    def __init__(self) -> None:
        self._batches: list[RowBatch] = []

    def __iter__(self) -> Iterator[RowBatch]:
        return iter(tuple(self._batches))

    def of(self, weights: DecoderWeights) -> RowBatch:
        """The batch that runs with ``weights``."""
        for batch in self._batches:
            if batch.weights is weights:
                return batch
        self._batches.append(RowBatch(weights))
        return self._batches[-1]

    def move(self, before: DecoderWeights, after: DecoderWeights) -> None:
        """Continue the rows of ``before`` with the weights ``after``."""
        if after is not before:
            self.of(after).take_from(self.of(before))

    def tidy(self) -> None:
        """Drop empty batches, and so the references to their weights."""
        self._batches = [batch for batch in self._batches if batch.rows]

    @property
    def num_rows(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    @property
    def rows(self) -> list[Row]:
        return [row for batch in self._batches for row in batch.rows if row is not None]
