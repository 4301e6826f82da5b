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

from grpo_core.ledger import spans
from grpo_core.lora.store import AdapterStore, Stamp
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


_Key = tuple[PolicyVersion, Stamp | None]


@dataclass(slots=True)
class _Entry:
    weights: PolicyWeights
    num_pins: int = 0


class LoRACache:
    """At most ``max_adapters`` versions of at most ``max_bytes`` together. Thread-safe.

    Pinned versions stay even over these limits. A version that does not fit beside them is returned but not cached. One
    that is published anew, as by a run that starts again, is read anew. One that was pruned is served while it is here.
    """

    def __init__(self, store: AdapterStore, max_bytes: int, max_adapters: int) -> None:
        assert max_bytes >= 0
        assert max_adapters >= 0
        self._store = store
        self._max_bytes = max_bytes
        self._max_adapters = max_adapters
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._loading: dict[_Key, Future[PolicyWeights]] = {}
        self._counters = CacheCounters()
        self.num_read_bytes = 0  # of weights, from the store, so far
        self._lock = Lock()

    def __contains__(self, version: PolicyVersion) -> bool:
        """Whether ``version`` is in memory. Does not count as a request."""
        with self._lock:
            return self._key(version) in self._entries

    def stamp_of(self, version: PolicyVersion) -> Stamp | None:
        """As ``AdapterStore.stamp_of``."""
        return self._store.stamp_of(version)

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
        with self._lock:
            key = self._key(version)
        return self._acquire(key, num_pins=0)

    def count_hit(self) -> None:
        """Count a request that an engine answers from weights that it holds itself."""
        with self._lock:
            self._count(hits=1)

    @contextmanager
    def pinned(self, version: PolicyVersion) -> Iterator[PolicyWeights]:
        """The weights of ``version``, kept in memory for the length of the ``with`` block. Raises as ``get``."""
        with self._lock:
            key = self._key(version)
        weights = self._acquire(key, num_pins=1).weights
        try:
            yield weights
        finally:
            with self._lock:
                self._entries[key].num_pins -= 1
                self._evict()

    def _key(self, version: PolicyVersion) -> _Key:
        stamp = self._store.stamp_of(version)
        kept = (key for key in reversed(self._entries) if key[0] == version)
        return next(kept, (version, None)) if stamp is None else (version, stamp)

    def _acquire(self, key: _Key, num_pins: int) -> CacheResult:
        with spans.LOAD:
            return self._found(key, num_pins)

    def _found(self, key: _Key, num_pins: int) -> CacheResult:
        start, version = time.perf_counter(), key[0]
        with self._lock:
            entry = self._entries.get(key)
            pending = self._loading.get(key)
            if entry is not None:
                self._count(hits=1)
                entry.num_pins += num_pins
                self._entries.move_to_end(key)
            elif pending is not None:
                self._count(joined=1)
            else:
                self._count(misses=1)
                self._loading[key] = Future()
        if entry is not None:
            logger.info("Adapter already cached locally: %s", version.name)
            weights = entry.weights
        elif pending is not None:
            weights = pending.result()
            with self._lock:
                weights = self._keep(key, weights, num_pins)
        else:
            weights = self._load(key, num_pins)
        return CacheResult(weights, entry is not None, (time.perf_counter() - start) * 1e3)

    def _load(self, key: _Key, num_pins: int) -> PolicyWeights:
        try:
            weights = self._store.load(key[0])
        except BaseException as error:  # also an interrupt: the waiting threads must not hang
            with self._lock:
                pending = self._loading.pop(key)
            pending.set_exception(error)
            raise
        with self._lock:
            self.num_read_bytes += weights.num_bytes
            weights = self._keep(key, weights, num_pins)
            pending = self._loading.pop(key)
        pending.set_result(weights)
        return weights

    def _keep(self, key: _Key, weights: PolicyWeights, num_pins: int) -> PolicyWeights:
        """Cache ``weights``. Returns those of another thread if it has cached the version in the meantime."""
        entry = self._entries.get(key)
        if entry is None:
            if num_pins == 0 and not self._fits_beside_pinned(weights):
                return weights
            entry = self._entries[key] = _Entry(weights)
        entry.num_pins += num_pins
        self._entries.move_to_end(key)
        self._evict()
        return entry.weights

    def _fits_beside_pinned(self, weights: PolicyWeights) -> bool:
        pinned = [entry.weights.num_bytes for entry in self._entries.values() if entry.num_pins > 0]
        return sum(pinned) + weights.num_bytes <= self._max_bytes and len(pinned) + 1 <= self._max_adapters

    def _evict(self) -> None:
        num_bytes = sum(entry.weights.num_bytes for entry in self._entries.values())
        for key, entry in list(self._entries.items()):
            if num_bytes <= self._max_bytes and len(self._entries) <= self._max_adapters:
                return
            if entry.num_pins == 0:
                num_bytes -= entry.weights.num_bytes
                del self._entries[key]
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
