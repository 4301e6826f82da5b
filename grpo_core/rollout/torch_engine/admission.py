"""Which requests may begin: first come first served, while there are sequences and bytes left for them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from grpo_core.errors import CapacityError
from grpo_core.rollout.draft import Draft
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.cache.rows import MAX_COPIED_TOKENS, MIN_SHARED_TOKENS, RowBatch, rounded_tokens
from grpo_core.rollout.torch_engine.prefill import is_prefilled

Reading = tuple[Draft, PrefixNode]


class Admission:
    """``waiting`` have not begun; of ``reading`` the prompt is under way."""

    def __init__(self, prefixes: PrefixCache, batches: Iterable[RowBatch], max_sequences: int, max_bytes: int) -> None:
        self._prefixes = prefixes
        self._batches = batches
        self._max_sequences = max_sequences
        self._max_bytes = max_bytes
        self.waiting: deque[Draft] = deque()
        self.reading: list[Reading] = []

    @property
    def num_bytes(self) -> int:
        """Keys and values held now, cached prompts included."""
        return self._prefixes.num_bytes + sum(batch.num_bytes for batch in self._batches)

    def admit(self) -> tuple[list[Reading], list[tuple[Draft, CapacityError]]]:
        """Move waiting drafts to ``reading``; those that were moved, and those that could never be."""
        begun: list[Reading] = []
        refused: list[tuple[Draft, CapacityError]] = []
        while self.waiting and self._num_under_way() < self._max_sequences:
            draft = self.waiting[0]
            leaf = self._prefixes.acquire(draft.policy_version, draft.request.prompt_ids)
            needed = self._make_room((draft, leaf))
            if needed > self._max_bytes:
                self._prefixes.release(leaf)
                if self._num_under_way():
                    break  # others will have ended
                self.waiting.popleft()
                refused.append((draft, self._too_large(draft, needed)))
                continue
            self.waiting.popleft()
            self.reading.append((draft, leaf))
            begun.append((draft, leaf))
        return begun, refused

    def take_ready(self) -> list[Reading]:
        """Those whose prompts have been read; they are out of here now."""
        ready = [pair for pair in self.reading if is_prefilled(pair[1])]
        self.reading = [pair for pair in self.reading if not is_prefilled(pair[1])]
        return ready

    def make_bytes(self, num_bytes: int) -> None:
        """Let prompts that nobody uses make way for ``num_bytes``, as far as there are some."""
        excess = self.num_bytes + num_bytes - self._max_bytes
        if excess > 0:
            self._prefixes.evict(excess)

    def _num_under_way(self) -> int:
        return len(self.reading) + sum(batch.num_rows for batch in self._batches)

    def _make_room(self, candidate: Reading) -> int:
        """Bytes in use once ``candidate`` and all before it decode, after unused prompts have made way for it."""
        joining = [*self.reading, candidate]
        nodes = {node for _, leaf in joining for node in leaf.path() if node.keys is None}
        prompts = sum(node.num_tokens for node in nodes) * self._prefixes.bytes_per_token
        slots = self._slot_bytes(joining)
        excess = self._prefixes.num_bytes + prompts + slots - self._max_bytes
        if excess > 0:
            self._prefixes.evict(excess)
        return self._prefixes.num_bytes + prompts + slots

    def _slot_bytes(self, joining: Sequence[Reading]) -> int:
        """At most what the slots take once ``joining`` have theirs: as many tokens for each as for the longest."""
        num_readers = Counter(leaf for _, leaf in joining)
        owns = [_max_own(draft, num_readers[leaf]) for draft, leaf in joining]
        owns.extend(batch.max_own for batch in self._batches)
        num_slots = len(joining) + sum(len(batch.rows) for batch in self._batches)
        return num_slots * rounded_tokens(max(owns)) * self._prefixes.bytes_per_token

    def _too_large(self, draft: Draft, needed: int) -> CapacityError:
        return CapacityError(
            f"prompt of {len(draft.request.prompt_ids)} tokens and up to {draft.budget} to generate take "
            f"{needed} bytes of keys and values, the engine has {self._max_bytes}; shorten the request or raise "
            "rollout.max_kv_bytes"
        )


def _max_own(draft: Draft, num_readers: int) -> int:
    """Most tokens that ``draft`` has in its slot (see ``rows.plan_rows``)."""
    num_prompt = len(draft.request.prompt_ids)
    num_copied = min(num_prompt, MAX_COPIED_TOKENS if num_readers == 1 else MIN_SHARED_TOKENS)
    return num_copied + draft.budget
