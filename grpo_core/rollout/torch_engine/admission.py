"""Which requests may start: first come, first served, within the limits on sequences and on KV cache bytes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from grpo_core.errors import CapacityError
from grpo_core.rollout.sequence import SequenceState
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.cache.rows import MAX_COPIED_TOKENS, MIN_SHARED_TOKENS, RowBatch, rounded_tokens
from grpo_core.rollout.torch_engine.prefill import is_prefilled

Prefill = tuple[SequenceState, PrefixNode]


class Admission:
    """The scheduler's queues: ``waiting`` sequences have no cache memory yet, ``prefilling`` ones do."""

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
        """Of the bytes that it may hold, those held now."""
        return self.num_bytes / self._max_bytes

    def admit(self) -> tuple[list[Prefill], list[tuple[SequenceState, CapacityError]]]:
        """Move waiting sequences to ``prefilling``. Returns those, and the ones that can never fit."""
        begun: list[Prefill] = []
        refused: list[tuple[SequenceState, CapacityError]] = []
        while self.waiting and self._num_under_way() < self._max_sequences:
            sequence = self.waiting[0]
            leaf = self._prefixes.acquire(sequence.policy_version, sequence.request.prompt_ids)
            needed = self._make_room((sequence, leaf))
            if needed > self._max_bytes:
                self._prefixes.release(leaf)
                if self._num_under_way():
                    break  # it fits once others have ended
                self.waiting.popleft()
                refused.append((sequence, self._too_large(sequence, needed)))
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

    def make_bytes(self, num_bytes: int) -> None:
        """Evict unused prompts until ``num_bytes`` are free, or none is left."""
        excess = self.num_bytes + num_bytes - self._max_bytes
        if excess > 0:
            self._prefixes.evict(excess)

    def _num_under_way(self) -> int:
        return len(self.prefilling) + sum(batch.num_rows for batch in self._batches)

    def _make_room(self, candidate: Prefill) -> int:
        """Bytes in use once ``candidate`` and all before it decode. Evicts unused prompts to make room."""
        joining = [*self.prefilling, candidate]
        nodes = {node for _, leaf in joining for node in leaf.path() if node.keys is None}
        prompts = sum(node.num_tokens for node in nodes) * self._prefixes.bytes_per_token
        slots = self._slot_bytes(joining)
        excess = self._prefixes.num_bytes + prompts + slots - self._max_bytes
        if excess > 0:
            self._prefixes.evict(excess)
        return self._prefixes.num_bytes + prompts + slots

    def _slot_bytes(self, joining: Sequence[Prefill]) -> int:
        """An upper bound on the slots' bytes once ``joining`` decode: every slot is as long as the longest."""
        num_readers = Counter(leaf for _, leaf in joining)
        owns = [_max_own(sequence, num_readers[leaf]) for sequence, leaf in joining]
        owns.extend(batch.max_own for batch in self._batches)
        num_slots = len(joining) + sum(len(batch.rows) for batch in self._batches)
        return num_slots * rounded_tokens(max(owns)) * self._prefixes.bytes_per_token

    def _too_large(self, sequence: SequenceState, needed: int) -> CapacityError:
        return CapacityError(
            f"prompt of {len(sequence.request.prompt_ids)} tokens and up to {sequence.budget} to generate take "
            f"{needed} bytes of keys and values, the engine has {self._max_bytes}; shorten the request or raise "
            "rollout.max_kv_bytes"
        )


def _max_own(sequence: SequenceState, num_readers: int) -> int:
    """Most tokens that ``sequence`` has in its slot (see ``rows.plan_rows``)."""
    num_prompt = len(sequence.request.prompt_ids)
    num_copied = min(num_prompt, MAX_COPIED_TOKENS if num_readers == 1 else MIN_SHARED_TOKENS)
    return num_copied + sequence.budget
