"""The sequences that decode together, and the part of the KV cache that each of them has alone.

A row reads shared parts of its prompt from the prefix cache, and stores what follows in its slot of a preallocated
tensor. Short or unshared ends of a prompt are copied into the slot: one dense product over all slots costs less than
one per node.

Legend: L layers, B slots, K key heads, S own tokens, D head size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
        rows.append(Row(sequence, leaf, num_shared, num_copied, num_copied + sequence.max_num_tokens))
    return rows


def max_slot_tokens(sequences: Sequence[tuple[SequenceState, PrefixNode]]) -> int:
    """Upper bound of the slot length that ``plan_rows`` gives any of ``sequences``, however they share prompts."""
    num_readers = Counter(leaf for _, leaf in sequences)
    return max(
        min(len(sequence.request.prompt_ids), MAX_COPIED_TOKENS if num_readers[leaf] == 1 else MIN_SHARED_TOKENS)
        + sequence.max_num_tokens
        for sequence, leaf in sequences
    )


def _is_copied(node: PrefixNode, num_prompt: int, num_readers: int) -> bool:
    if num_readers == 1:
        return num_prompt - node.start <= MAX_COPIED_TOKENS
    return num_prompt - node.start < MIN_SHARED_TOKENS


class RowBatch:
    """Slots for rows. ``keys`` and ``values`` are [L, capacity, K, S, D]; ``rows[slot]`` is None where free.

    Slots after the last of ``rows`` are free, too. Nothing here takes more memory than it was asked for by
    ``added_bytes`` and ``shrink``.
    """

    def __init__(self, weights: DecoderWeights) -> None:
        self.weights = weights  # of all its rows
        self.rows: list[Row | None] = []
        self.keys = self.values = self._slots(0, 0)

    @property
    def num_rows(self) -> int:
        return sum(row is not None for row in self.rows)

    @property
    def num_bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    @property
    def capacity(self) -> int:
        """Slots, free ones included."""
        return self.keys.shape[1]

    @property
    def slot_tokens(self) -> int:
        return self.keys.shape[3]

    def added_bytes(self, rows: Sequence[Row]) -> int:
        """Most bytes that ``add`` takes beside those held now: the old slots go one tensor after the other."""
        if self._has_room(rows):
            return 0
        old = self.num_bytes
        new = (self.num_rows + len(rows)) * self._grown_tokens(rows) * self.weights.kv_bytes_per_token
        return max(new // 2, new - old // 2)

    def add(self, rows: Sequence[Row]) -> None:
        """Give every row a slot, siblings next to each other, and copy the ends of the prompts that are not shared."""
        slots = self._reserve(rows)
        copied: dict[tuple[PrefixNode, int], list[int]] = {}
        for slot, row in zip(slots, rows, strict=True):
            self.rows[slot] = row
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
        """Move all rows of ``other`` here, with their keys and values. ``added_bytes`` says what it takes."""
        moved = [(slot, row) for slot, row in enumerate(other.rows) if row is not None]
        slots = self._reserve([row for _, row in moved])
        for slot, (source, row) in zip(slots, moved, strict=True):
            self.rows[slot] = row
            self.keys[:, slot, :, : row.num_own] = other.keys[:, source, :, : row.num_own]
            self.values[:, slot, :, : row.num_own] = other.values[:, source, :, : row.num_own]
        other.clear()

    def clear(self) -> None:
        self.rows = []
        self.keys = self.values = self._slots(0, 0)

    def compact(self) -> None:
        """Move rows together in place once free slots are many, so that a pass runs over few of them; this takes no
        memory. Free it when no row is left."""
        num_rows = self.num_rows
        if num_rows == 0:
            self.clear()
        elif num_rows < COMPACT_BELOW * len(self.rows):
            self._pack()

    def shrink(self, free_bytes: int) -> None:
        """Free slots after the last row once they are many, if the copies of the others fit into ``free_bytes``."""
        num_slots = len(self.rows)
        if num_slots < COMPACT_BELOW * self.capacity and self.num_bytes * num_slots // self.capacity // 2 <= free_bytes:
            self.keys = self.keys[:, :num_slots].clone()
            self.values = self.values[:, :num_slots].clone()

    def _has_room(self, rows: Sequence[Row]) -> bool:
        longest = rounded_tokens(max(row.max_own for row in rows))
        return longest <= self.slot_tokens and self.num_rows + len(rows) <= self.capacity

    def _pack(self) -> None:
        kept = [(slot, row) for slot, row in enumerate(self.rows) if row is not None]
        for place, (slot, row) in enumerate(kept):
            if place != slot:
                self.keys[:, place, :, : row.num_own] = self.keys[:, slot, :, : row.num_own]
                self.values[:, place, :, : row.num_own] = self.values[:, slot, :, : row.num_own]
        self.rows = [row for _, row in kept]

    def _grown_tokens(self, rows: Sequence[Row]) -> int:
        return max(self.slot_tokens, rounded_tokens(max(row.max_own for row in rows)))

    def _reserve(self, rows: Sequence[Row]) -> range:
        """Adjacent free slots for ``rows``; new ones where there are not enough."""
        if self._has_room(rows):
            if _find_run(self.rows, self.capacity, len(rows)) is None:
                self._pack()
        else:
            kept = [slot for slot, row in enumerate(self.rows) if row is not None]
            size = self._grown_tokens(rows)
            self.keys = self._grown(self.keys, kept, len(rows), size)
            self.values = self._grown(self.values, kept, len(rows), size)  # after the old keys are gone
            self.rows = [self.rows[slot] for slot in kept]
        start = _find_run(self.rows, self.capacity, len(rows))
        assert start is not None
        self.rows += [None] * (start + len(rows) - len(self.rows))
        return range(start, start + len(rows))

    def _grown(self, old: Tensor, kept: list[int], num_more: int, size: int) -> Tensor:
        grown = self._slots(len(kept) + num_more, size)
        for place, slot in enumerate(kept):
            grown[:, place, :, : old.shape[3]] = old[:, slot]
        return grown

    def _slots(self, num_slots: int, size: int) -> Tensor:
        """Zeros: attention multiplies unused positions by a weight of 0, so they must not be NaN."""
        weights = self.weights
        shape = (len(weights.layers), num_slots, weights.num_key_heads, size, weights.head_size)
        return weights.embedding.new_zeros(shape)

    def _copy_prompt(self, nodes: list[PrefixNode], slots: list[int]) -> None:
        for layer in range(len(self.keys)):
            keys, values = gather(nodes, layer)
            index = torch.tensor(slots, device=keys.device)
            self.keys[layer, index, :, : keys.shape[1]] = keys
            self.values[layer, index, :, : values.shape[1]] = values


def rounded_tokens(num_tokens: int) -> int:
    """Tokens of a slot that holds ``num_tokens``."""
    return -(-num_tokens // OWN_STEP_TOKENS) * OWN_STEP_TOKENS


def _find_run(rows: Sequence[Row | None], capacity: int, size: int) -> int | None:
    """The first of ``size`` adjacent free slots of ``capacity``; None without."""
    length = 0
    for slot, row in enumerate(rows):
        length = length + 1 if row is None else 0
        if length == size:
            return slot - size + 1
    start = len(rows) - length
    return start if start + size <= capacity else None
