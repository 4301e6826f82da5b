"""Which weights each policy version runs with, for as long as somebody needs it."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

from grpo_core.lora.cache import LoRACache
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.rollout.torch_engine.weights.adapters import FusedAdapter, Updates, read_updates
from grpo_core.rollout.torch_engine.weights.full_weights import write_weights
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.rollout.torch_engine.weights.products import NativeProducts
from grpo_core.types import FullWeights, PolicyVersion, PolicyWeights


@dataclass(frozen=True, slots=True)
class VersionWeights:
    """``updates`` are still to be added, row by row; None where ``weights`` are the version's own."""

    weights: DecoderWeights
    updates: Updates | None


class Versions:
    """The active version, and those that requests still need beside it. 0 is the base model.

    An adapter runs merged into a second copy of its targets while it is active, and else as low-rank updates of the
    base. With ``products`` that copy is of all linear maps and packed, and the base model, too, runs in it while it is
    active. Full weights have a copy of their own, which the next version is written into unless a request still needs
    it: then that one gets a new copy, and the old one goes with its last request.
    """

    def __init__(
        self,
        base: DecoderWeights,
        fingerprint: str,
        adapters: LoRACache,
        run: str,
        products: NativeProducts | None = None,
    ) -> None:
        self.base = base
        self.active = 0
        self._fingerprint = fingerprint
        self._adapters = adapters
        self._run = run
        self._products = products
        self._merger = FusedAdapter(base, products)
        self._base = VersionWeights(base, None)
        self._running = self._merged(self._base)  # the active version
        self._beside = self._base  # the same, once it is not active any more
        self._num_holds: Counter[int] = Counter()
        self._held: dict[int, VersionWeights] = {}  # beside the active one
        self._pins: dict[int, ExitStack] = {}

    def activate(self, number: int) -> AdapterSwap:
        """Run version ``number``. What ran before must from now on ask ``weights_of`` anew.

        Raises:
            AdapterError: it is not there, damaged, or does not fit; the active version stays.
        """
        if number == self.active and self._beside.weights is not self.base:  # full weights: all of them are here
            return AdapterSwap(number, cache_hit=True, load_ms=0.0, swap_ms=0.0)
        start = time.perf_counter()
        hit, load_ms, found = True, 0.0, None
        if number != 0:
            loaded = self._adapters.get(PolicyVersion(self._run, number))
            hit, load_ms, found = loaded.hit, loaded.load_ms, loaded.weights
            start = time.perf_counter()
        if number != self.active:
            unused = None if self.is_held(self.active) else self._beside
            beside = self._held.get(number) or self._open(found, instead_of=unused)
            self._running = self._merged(beside)
            if beside.weights is not self.base:  # full weights: nothing runs merged for now
                self._merger = FusedAdapter(self.base, self._products)
            self._beside, self.active = beside, number
        return AdapterSwap(number, cache_hit=hit, load_ms=load_ms, swap_ms=(time.perf_counter() - start) * 1e3)

    def hold(self, number: int) -> None:
        """Keep version ``number`` at hand until ``release``.

        Raises:
            AdapterError: as ``activate``.
        """
        if number not in self._held and number in (0, self.active):
            self._held[number] = self._beside if number else self._base
        elif number not in self._held:
            with ExitStack() as pin:
                found = pin.enter_context(self._adapters.pinned(PolicyVersion(self._run, number)))
                self._held[number] = self._open(found)
                if self._held[number].updates is not None:  # those are the cached tensors, not a copy
                    self._pins[number] = pin.pop_all()
        self._num_holds[number] += 1

    def release(self, number: int) -> bool:
        """One holder less. Whether it was the last one."""
        self._num_holds[number] -= 1
        if self._num_holds[number] > 0:
            return False
        del self._num_holds[number]
        del self._held[number]
        if number in self._pins:
            self._pins.pop(number).close()
        return True

    def is_held(self, number: int) -> bool:
        return number in self._num_holds

    def weights_of(self, number: int) -> VersionWeights:
        """How to run version ``number``, which is active or held."""
        if number == self.active:
            return self._running
        return self._held[number] if number else self._base

    def beside(self, number: int) -> VersionWeights:
        """How version ``number``, which is held, runs beside an active one, whether it is active itself or not."""
        return self._held[number]

    def _merged(self, beside: VersionWeights) -> VersionWeights:
        """``beside`` as it runs while it is active."""
        is_plain_base = beside.weights is self.base and (beside.updates is not None or self._products is not None)
        return VersionWeights(self._merger.merge(beside.updates or {}), None) if is_plain_base else beside

    def _open(self, found: PolicyWeights | None, instead_of: VersionWeights | None = None) -> VersionWeights:
        """``found`` as it runs beside an active version; it may take the copy of the one ``instead_of``."""
        if found is None:
            return self._base
        if isinstance(found, FullWeights):
            over = instead_of.weights if instead_of is not None else self.base
            free = over if over is not self.base else None
            return VersionWeights(
                write_weights(found, self.base, self._fingerprint, over=free, products=self._products), None
            )
        return VersionWeights(self.base, read_updates(found, self.base, self._fingerprint))
