"""An LRU cache of published weights, so that a version is read from disk once."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

from grpo_core.lora.store import AdapterStore
from grpo_core.types import PolicyVersion, PolicyWeights

DEFAULT_MAX_BYTES = 1 << 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheResult:
    """The result of one lookup. ``load_ms`` is the wall time of the call, hit or miss."""

    weights: PolicyWeights
    hit: bool  # it was in memory
    load_ms: float


@dataclass(frozen=True, slots=True)
class CacheCounters:
    """Exact totals since the cache was built. Every request is a hit, a miss or joined."""

    hits: int = 0
    misses: int = 0
    joined: int = 0  # waited for another thread's load
    evictions: int = 0


@dataclass(slots=True)
class _Entry:
    weights: PolicyWeights
    num_pins: int = 0


class LoRACache:
    """At most ``max_adapters`` versions of at most ``max_bytes`` together. Thread-safe.

    Pinned versions stay even over these limits. A version that does not fit beside them is returned but not cached.
    """

    def __init__(self, store: AdapterStore, max_bytes: int, max_adapters: int) -> None:
        assert max_bytes >= 0
        assert max_adapters >= 0
        self._store = store
        self._max_bytes = max_bytes
        self._max_adapters = max_adapters
        self._entries: OrderedDict[PolicyVersion, _Entry] = OrderedDict()
        self._loading: dict[PolicyVersion, Future[PolicyWeights]] = {}
        self._counters = CacheCounters()
        self._lock = Lock()

    def __contains__(self, version: PolicyVersion) -> bool:
        """Whether ``version`` is in memory. Does not count as a request."""
        with self._lock:
            return version in self._entries

    @property
    def counters(self) -> CacheCounters:
        """Totals so far; a value that does not change afterwards."""
        return self._counters

    @property
    def num_adapters(self) -> int:
        """Versions held now: at most ``max_adapters``, unless more are pinned."""
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """Bytes of their weights."""
        with self._lock:
            return sum(entry.weights.num_bytes for entry in self._entries.values())

    def get(self, version: PolicyVersion) -> CacheResult:
        """The weights of ``version``, from memory or else from the store. Concurrent calls share one load.

        Raises:
            AdapterNotFoundError, AdapterCorruptError: as ``AdapterStore.load``, for every caller that waited for that
                load. The failure is not cached.
        """
        return self._acquire(version, num_pins=0)

    @contextmanager
    def pinned(self, version: PolicyVersion) -> Iterator[PolicyWeights]:
        """The weights of ``version``, kept in memory for the length of the ``with`` block. Raises as ``get``."""
        weights = self._acquire(version, num_pins=1).weights
        try:
            yield weights
        finally:
            with self._lock:
                self._entries[version].num_pins -= 1
                self._evict()

    def _acquire(self, version: PolicyVersion, num_pins: int) -> CacheResult:
        start = time.perf_counter()
        with self._lock:
            entry = self._entries.get(version)
            pending = self._loading.get(version)
            if entry is not None:
                self._count(hits=1)
                entry.num_pins += num_pins
                self._entries.move_to_end(version)
            elif pending is not None:
                self._count(joined=1)
            else:
                self._count(misses=1)
                self._loading[version] = Future()
        if entry is not None:
            logger.info("Adapter already cached locally: %s", version.name)
            weights = entry.weights
        elif pending is not None:
            weights = pending.result()
            with self._lock:
                weights = self._keep(weights, num_pins)
        else:
            weights = self._load(version, num_pins)
        return CacheResult(weights, entry is not None, (time.perf_counter() - start) * 1e3)

    def _load(self, version: PolicyVersion, num_pins: int) -> PolicyWeights:
        try:
            weights = self._store.load(version)
        except BaseException as error:  # also an interrupt: the waiting threads must not hang
            with self._lock:
                pending = self._loading.pop(version)
            pending.set_exception(error)
            raise
        with self._lock:
            weights = self._keep(weights, num_pins)
            pending = self._loading.pop(version)
        pending.set_result(weights)
        return weights

    def _keep(self, weights: PolicyWeights, num_pins: int) -> PolicyWeights:
        """Cache ``weights``. Returns those of another thread if it has cached the version in the meantime."""
        entry = self._entries.get(weights.version)
        if entry is None:
            if num_pins == 0 and not self._fits_beside_pinned(weights):
                return weights
            entry = self._entries[weights.version] = _Entry(weights)
        entry.num_pins += num_pins
        self._entries.move_to_end(weights.version)
        self._evict()
        return entry.weights

    def _fits_beside_pinned(self, weights: PolicyWeights) -> bool:
        pinned = [entry.weights.num_bytes for entry in self._entries.values() if entry.num_pins > 0]
        return sum(pinned) + weights.num_bytes <= self._max_bytes and len(pinned) + 1 <= self._max_adapters

    def _evict(self) -> None:
        num_bytes = sum(entry.weights.num_bytes for entry in self._entries.values())
        for version, entry in list(self._entries.items()):
            if num_bytes <= self._max_bytes and len(self._entries) <= self._max_adapters:
                return
            if entry.num_pins == 0:
                num_bytes -= entry.weights.num_bytes
                del self._entries[version]
                self._count(evictions=1)

    def _count(self, hits: int = 0, misses: int = 0, joined: int = 0, evictions: int = 0) -> None:
        old = self._counters
        self._counters = replace(
            old,
            hits=old.hits + hits,
            misses=old.misses + misses,
            joined=old.joined + joined,
            evictions=old.evictions + evictions,
        )
