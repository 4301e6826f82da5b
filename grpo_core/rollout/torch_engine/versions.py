"""Which weights each policy version runs with, for as long as somebody needs it."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

from grpo_core.lora.cache import LoRACache
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.rollout.torch_engine.adapters import MergedWeights, Updates, read_updates
from grpo_core.rollout.torch_engine.weights import DecoderWeights
from grpo_core.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class VersionWeights:
    """``updates`` are still to be added, row by row; None where ``weights`` are the version's own."""

    weights: DecoderWeights
    updates: Updates | None


class Versions:
    """The active version, merged, and those that requests still need, as low-rank updates. 0 is the base model."""

    def __init__(self, base: DecoderWeights, fingerprint: str, adapters: LoRACache, run: str) -> None:
        self.base = base
        self.active = 0
        self.num_swaps = 0
        self._fingerprint = fingerprint
        self._adapters = adapters
        self._run = run
        self._merger = MergedWeights(base)
        self._merged = base
        self._num_holds: Counter[int] = Counter()
        self._active_updates: Updates = {}
        self._updates: dict[int, Updates] = {}
        self._pins: dict[int, ExitStack] = {}

    def activate(self, number: int) -> AdapterSwap:
        """Merge version ``number``. What ran merged before must from now on ask ``weights_of`` anew.

        Raises:
            AdapterError: it is not there, damaged, or does not fit; the active version stays.
        """
        start = time.perf_counter()
        hit, load_ms, updates = True, 0.0, None
        if number != 0:
            loaded = self._adapters.get(PolicyVersion(self._run, number))
            hit, load_ms = loaded.hit, loaded.load_ms
            start = time.perf_counter()
            if number != self.active:
                updates = read_updates(loaded.adapter, self.base, self._fingerprint)
        if number != self.active:
            self._merged = self._merger.merge(updates) if updates is not None else self.base
            self.active = number
            self._active_updates = updates or {}
            self.num_swaps += number != 0
        return AdapterSwap(number, cache_hit=hit, load_ms=load_ms, swap_ms=(time.perf_counter() - start) * 1e3)

    def hold(self, number: int) -> None:
        """Keep version ``number`` at hand until ``release``.

        Raises:
            AdapterError: as ``activate``.
        """
        if number not in self._updates and number in (0, self.active):
            self._updates[number] = self._active_updates if number else {}
            self._pins[number] = ExitStack()
        elif number not in self._updates:
            pin = ExitStack()
            with pin:
                adapter = pin.enter_context(self._adapters.pinned(PolicyVersion(self._run, number)))
                self._updates[number] = read_updates(adapter, self.base, self._fingerprint)
                self._pins[number] = pin.pop_all()
        self._num_holds[number] += 1

    def release(self, number: int) -> bool:
        """One holder less. Whether it was the last one."""
        self._num_holds[number] -= 1
        if self._num_holds[number] > 0:
            return False
        del self._num_holds[number]
        del self._updates[number]
        self._pins.pop(number).close()
        return True

    def is_held(self, number: int) -> bool:
        return number in self._num_holds

    def updates_of(self, number: int) -> Updates:
        """What version ``number``, which is held, adds to the base weights."""
        return self._updates[number]

    def weights_of(self, number: int) -> VersionWeights:
        """How to run version ``number``, which is active or held."""
        if number == 0:
            return VersionWeights(self.base, None)
        if number == self.active:
            return VersionWeights(self._merged, None)
        return VersionWeights(self.base, self._updates[number])
