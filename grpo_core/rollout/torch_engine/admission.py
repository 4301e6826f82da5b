"""Which requests may start: first come, first served, within the limits on sequences and on KV cache bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from grpo_core.errors import GrpoError
from grpo_core.rollout.sequence import SequenceState, own_error
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.cache.rows import RowBatch, max_slot_tokens, rounded_tokens
from grpo_core.rollout.torch_engine.capacity import too_large
from grpo_core.rollout.torch_engine.prefill import is_prefilled
from grpo_core.types import Int32

Prefill = tuple[SequenceState, PrefixNode]


class Admission:
    """The scheduler's queues, ``waiting`` and ``prefilling``, and what is left of the KV cache's bytes.

    What a sequence will take is reserved from ``admit`` on: the part of its prompt that is not allocated, and its slot.
    """

    def __init__(self, prefixes: PrefixCache, batches: Iterable[RowBatch], max_sequences: int, max_bytes: int) -> None:
        self._prefixes = prefixes
        self._batches = batches
        self._max_sequences = max_sequences
        self._max_bytes = max_bytes
        self.waiting: deque[SequenceState] = deque()
        self.prefilling: list[Prefill] = []

    @property
    def num_bytes(self) -> int:
        """Keys and values held now, cached prompts included."""
        return self._prefixes.num_bytes + sum(batch.num_bytes for batch in self._batches)

    @property
    def used_share(self) -> float:
        """The share of the bytes that it may hold that are held now."""
        return self.num_bytes / self._max_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody holds, and that are not reserved."""
        return self._max_bytes - self.num_bytes - self._reserved_bytes(self.prefilling)

    def admit(self) -> tuple[list[Prefill], list[tuple[SequenceState, GrpoError]]]:
        """Move waiting sequences to ``prefilling``. Returns those, and the ones that can never begin."""
        begun: list[Prefill] = []
        refused: list[tuple[SequenceState, GrpoError]] = []
        while self.waiting and self._num_under_way() < self._max_sequences:
            sequence = self.waiting[0]
            try:
                leaf = self.acquire(sequence.policy_version, sequence.request.prompt_ids)
            except Exception as error:  # whatever it is: the other sequences go on
                refused.append((self.waiting.popleft(), own_error(error, "finding its prompt")))
                continue
            needed = self._make_room((sequence, leaf)) if leaf is not None else 0
            if leaf is None or needed > self._max_bytes:
                if leaf is not None:
                    self._prefixes.release(leaf)
                if self._num_under_way():
                    break  # it fits once others have ended
                self.waiting.popleft()
                refused.append((sequence, too_large(sequence, needed, self._max_bytes)))
                continue
            self.waiting.popleft()
            self.prefilling.append((sequence, leaf))
            begun.append((sequence, leaf))
        return begun, refused

    def take_ready(self) -> list[Prefill]:
        """Remove and return the sequences with a prefilled prompt."""
        ready = [pair for pair in self.prefilling if is_prefilled(pair[1])]
        self.prefilling = [pair for pair in self.prefilling if not is_prefilled(pair[1])]
        return ready

    def acquire(self, version: int, prompt_ids: Int32) -> PrefixNode | None:
        """As ``PrefixCache.acquire``; None where there is no room to split a prompt that begins alike."""
        splitting = self._prefixes.split_bytes(version, prompt_ids)
        if splitting and splitting > self.make_bytes(splitting):
            splitting = self._prefixes.split_bytes(version, prompt_ids)  # perhaps that prompt was evicted
            if splitting and splitting > self.free_bytes:
                return None
        return self._prefixes.acquire(version, prompt_ids)

    def make_bytes(self, num_bytes: int) -> int:
        """Evict unused prompts until ``num_bytes`` are free, or none is left. Returns the free bytes."""
        missing = num_bytes - self.free_bytes
        if missing > 0:
            self._prefixes.evict(missing)
        return self.free_bytes

    def _num_under_way(self) -> int:
        return len(self.prefilling) + sum(batch.num_rows for batch in self._batches)

    def _make_room(self, candidate: Prefill) -> int:
        """Bytes in use once ``candidate`` and all before it decode. Evicts unused prompts to make room."""
        reserved = self._reserved_bytes([*self.prefilling, candidate])
        excess = self.num_bytes + reserved - self._max_bytes
        if excess > 0:
            self._prefixes.evict(excess)
        return self.num_bytes + reserved

    def _reserved_bytes(self, joining: Sequence[Prefill]) -> int:
        """Bytes that ``joining`` take beside those held now."""
        if not joining:
            return 0
        prompts = self._prefixes.missing_bytes({node for _, leaf in joining for node in leaf.path()})
        size = rounded_tokens(max_slot_tokens(joining))
        num_free = sum(batch.capacity - batch.num_rows for batch in self._batches if batch.slot_tokens >= size)
        return prompts + max(0, len(joining) - num_free) * size * self._prefixes.bytes_per_token
