"""A cache of adapters that can be switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_core.lora.store import AdapterStore

MAX_CACHED_ADAPTERS = 4


def switchable_cache(store: AdapterStore) -> Any:
    """A ``LoRACache`` that answers from a new, empty cache while ``is_bypassed`` is set, and counts that as a miss."""
    from grpo_core.lora.cache import DEFAULT_MAX_BYTES, CacheResult, LoRACache
    from grpo_core.types import PolicyVersion

    def new_cache() -> LoRACache:
        return LoRACache(store, DEFAULT_MAX_BYTES, MAX_CACHED_ADAPTERS)

    class SwitchableCache(LoRACache):
        is_bypassed = False

        def get(self, version: PolicyVersion) -> CacheResult:
            if not self.is_bypassed:
                return super().get(version)
            found = new_cache().get(version)
            with self._lock:
                self._count(misses=1)
            return found

    return SwitchableCache(store, DEFAULT_MAX_BYTES, MAX_CACHED_ADAPTERS)
