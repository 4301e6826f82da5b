"""The adapters that vLLM has loaded: each from before its first request until after its last one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from grpo_core.errors import AdapterError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.check import check_adapter
from grpo_core.lora.store import AdapterStore, Stamp
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.types import Adapter, PolicyVersion, PolicyWeights


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A version as vLLM knows it. An id is never used twice; vLLM's prefix cache identifies adapters by folder."""

    version: PolicyVersion
    id: int
    folder: Path


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What an adapter must fit."""

    fingerprint: str
    linear_shapes: Mapping[str, tuple[int, int]]  # of the decoder's linear modules, by name: outputs, inputs
    max_lora_rank: int


class ResidentAdapters:
    """The ``current`` version and the ones that requests use. ``load`` and ``unload`` block until vLLM has done so."""

    def __init__(
        self,
        cache: LoRACache,
        store: AdapterStore,
        run: str,
        base: BaseModel,
        load: Callable[[LoadedAdapter], None],
        unload: Callable[[LoadedAdapter], None],
        ids: Iterator[int],
    ) -> None:
        self.current = 0
        self.num_swaps = 0  # to another adapter than the one before, or to one that was published anew
        self._cache = cache
        self._store = store
        self._run = run
        self._base = base
        self._load = load
        self._unload = unload
        self._ids = ids
        self._loaded: dict[int, LoadedAdapter] = {}
        self._num_users: dict[int, int] = {}
        self._stamps: dict[int, Stamp | None] = {}  # of the versions that are loaded, or were

    def use(self, number: int) -> AdapterSwap:
        """Make ``number`` current; unload the previous version once no request uses it. Raises as ``acquire``."""
        start = time.perf_counter()
        held, active = self._loaded.get(number), self._loaded.get(self.current)
        cache_hit, load_ms = self._ensure(number)
        loaded = self._loaded.get(number)
        if loaded is not None and loaded is held:
            self._cache.count_hit()
        self.num_swaps += int(loaded is not None and loaded is not active)
        before, self.current = self.current, number
        self._drop_unused(before)
        return AdapterSwap(number, cache_hit, load_ms, swap_ms=(time.perf_counter() - start) * 1e3 - load_ms)

    def acquire(self, number: int) -> LoadedAdapter | None:
        """Version ``number`` for one more request; None for the base model. Call ``release`` once for each call.

        Raises:
            AdapterNotFoundError, AdapterCorruptError: as ``AdapterStore.load``.
            AdapterError: as ``check_fits``.
        """
        self._ensure(number)
        self._num_users[number] = self._num_users.get(number, 0) + 1
        return self._loaded.get(number)

    def release(self, number: int) -> None:
        self._num_users[number] -= 1
        self._drop_unused(number)

    def _ensure(self, number: int) -> tuple[bool, float]:
        """Load the version unless it is. Whether it was in memory, and how long it took to have its weights there."""
        start = time.perf_counter()
        version = PolicyVersion(self._run, number)
        if number and number in self._loaded and self._is_replaced(number):
            if self._num_users.get(number):
                raise AdapterError(
                    f"version {version.name} was published again while requests use its old weights; let them end first"
                )
            self._unload(self._loaded.pop(number))
        if number == 0 or number in self._loaded:
            return True, (time.perf_counter() - start) * 1e3
        found = self._cache.get(version)
        check_fits(found.weights, self._base)
        loaded = LoadedAdapter(version, next(self._ids), self._store.folder_of(version))
        self._load(loaded)
        self._loaded[number] = loaded
        self._stamps[number] = self._cache.stamp_of(version)
        return found.hit, found.load_ms

    def _is_replaced(self, number: int) -> bool:
        stamp = self._cache.stamp_of(PolicyVersion(self._run, number))
        return stamp is not None and stamp != self._stamps[number]

    def _drop_unused(self, number: int) -> None:
        if number != self.current and not self._num_users.get(number):
            self._num_users.pop(number, None)
            if (loaded := self._loaded.pop(number, None)) is not None:
                self._unload(loaded)


def check_fits(weights: PolicyWeights, base: BaseModel) -> None:
    """vLLM skips modules that it does not find, without an error, so every one is looked up here.

    Raises:
        AdapterError: ``weights`` are no adapter, or as ``check_adapter``.
    """
    if not isinstance(weights, Adapter):
        raise AdapterError(
            f"version {weights.version.name} has full weights, and vLLM takes adapters here; use the torch engine"
        )
    check_adapter(weights, base.fingerprint, base.linear_shapes, max_rank=base.max_lora_rank)


def linear_shapes(folder: str) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every linear module of the model in ``folder``, without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    modules = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {name: (module.out_features, module.in_features) for name, module in modules.items()}
