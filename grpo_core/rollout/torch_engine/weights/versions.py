"""Which weights each policy version runs with, for as long as a request needs it."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from grpo_core.errors import AdapterError
from grpo_core.ledger import spans
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import Stamp
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.rollout.torch_engine.weights.adapters import FusedAdapter, Updates, read_updates
from grpo_core.rollout.torch_engine.weights.full_weights import write_weights
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.rollout.torch_engine.weights.products import NativeProducts
from grpo_core.types import FullWeights, PolicyVersion, PolicyWeights


@dataclass(frozen=True, slots=True)
class VersionWeights:
    """``updates`` are added during the pass, row by row; None where ``weights`` are the version's own."""

    weights: DecoderWeights
    updates: Updates | None


class Versions:
    """The active version, and the versions that requests still need beside it. 0 is the base model.

    The active adapter is fused into a copy of its targets; other adapters run as low-rank updates of the base, and so
    do all in bfloat16, where the weights' 8 bits would swallow a small update. With ``products`` the copy has all
    linear maps, packed, and an active base model runs from it, too. Full weights have a copy of their own. The next
    version overwrites it, unless a request still needs it: then the next version gets a new copy, and the old one is
    freed with its last request.
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
        self.num_activations = 0  # that changed what the active version computes
        self._stamps: dict[int, Stamp | None] = {}  # of the active version and those held
        self._fingerprint = fingerprint
        self._adapters = adapters
        self._run = run
        self._products = products
        self._merger = FusedAdapter(base, products)
        self._base = VersionWeights(base, None)
        self._running = self._merged(self._base)  # the active version
        self._beside = self._base  # the same version as it runs when another one is active
        self._num_holds: Counter[int] = Counter()
        self._held: dict[int, VersionWeights] = {}  # beside the active one
        self._pins: dict[int, ExitStack] = {}

    def activate(self, number: int) -> AdapterSwap:
        """Make ``number`` the active version. Results of ``weights_of`` from before this call are invalid.

        Raises:
            AdapterError: it is missing, damaged, or does not fit, or was published anew while requests run on what it
                was before; the active version stays.
        """
        with spans.SWAP:
            return self._activate(number)

    def _activate(self, number: int) -> AdapterSwap:
        is_active = number == self.active and not self._is_replaced(number)
        if is_active and self._beside.weights is not self.base:  # full weights are in memory already
            self._adapters.count_hit()
            return AdapterSwap(number, cache_hit=True, load_ms=0.0, swap_ms=0.0)
        self._refuse_replaced(number)
        start = time.perf_counter()
        hit, load_ms, found = True, 0.0, None
        if number != 0:
            loaded = self._adapters.get(PolicyVersion(self._run, number))
            hit, load_ms, found = loaded.hit, loaded.load_ms, loaded.weights
            start = time.perf_counter()
        if not is_active:
            unused = None if self.is_held(self.active) else self._beside
            beside = self._held.get(number) or self._open(found, instead_of=unused)
            self._running = self._merged(beside)
            if beside.weights is not self.base:  # full weights: free the fused copy
                self._merger = FusedAdapter(self.base, self._products)
            self._beside, self.active = beside, number
            self.num_activations += 1
            self._remember(number)
        return AdapterSwap(number, cache_hit=hit, load_ms=load_ms, swap_ms=(time.perf_counter() - start) * 1e3)

    def hold(self, number: int) -> None:
        """Keep version ``number`` in memory until ``release``.

        Raises:
            AdapterError: as ``activate``.
        """
        if number not in self._held and number in (0, self.active):
            self._held[number] = self._beside if number else self._base
        elif number in self._held:
            self._refuse_replaced(number)
        else:
            with ExitStack() as pin:
                found = pin.enter_context(self._adapters.pinned(PolicyVersion(self._run, number)))
                self._held[number] = self._open(found)
                if self._held[number].updates is not None:  # they are the cached tensors, not copies
                    self._pins[number] = pin.pop_all()
            self._remember(number)
        self._num_holds[number] += 1

    def release(self, number: int) -> bool:
        """Undo one ``hold``. Whether it was the last one."""
        self._num_holds[number] -= 1
        if self._num_holds[number] > 0:
            return False
        del self._num_holds[number]
        del self._held[number]
        if number in self._pins:
            self._pins.pop(number).close()
        return True

    def _stamp(self, number: int) -> Stamp | None:
        return self._adapters.stamp_of(PolicyVersion(self._run, number)) if number else None

    def _remember(self, number: int) -> None:
        in_memory = {self.active, *self._held}
        self._stamps = {each: stamp for each, stamp in self._stamps.items() if each in in_memory}
        self._stamps[number] = self._stamp(number)

    def _is_replaced(self, number: int) -> bool:
        """Whether version ``number`` is in memory, and was published anew since. One that was pruned is not."""
        stamp = self._stamp(number)
        return stamp is not None and number in self._stamps and stamp != self._stamps[number]

    def _refuse_replaced(self, number: int) -> None:
        if self.is_held(number) and self._is_replaced(number):
            raise AdapterError(
                f"version {number} of run {self._run!r} was published again while requests use its old weights; "
                "let them end first"
            )

    def is_held(self, number: int) -> bool:
        return number in self._num_holds

    def weights_of(self, number: int) -> VersionWeights:
        """The weights to run version ``number`` with, which is active or held."""
        if number == self.active:
            return self._running
        return self._held[number] if number else self._base

    def beside(self, number: int) -> VersionWeights:
        """The weights to run ``number``, which is held, in one pass with other versions."""
        return self._held[number]

    def _merged(self, beside: VersionWeights) -> VersionWeights:
        """The weights of ``beside`` for the time that it is active."""
        is_plain_base = beside.weights is self.base and (beside.updates is not None or self._products is not None)
        is_exact = self.base.embedding.dtype == torch.float32
        return VersionWeights(self._merger.merge(beside.updates or {}), None) if is_plain_base and is_exact else beside

    def _open(self, found: PolicyWeights | None, instead_of: VersionWeights | None = None) -> VersionWeights:
        """The weights to run ``found`` beside other versions. They may overwrite the copy of ``instead_of``."""
        if found is None:
            return self._base
        if isinstance(found, FullWeights):
            over = instead_of.weights if instead_of is not None else self.base
            free = over if over is not self.base else None
            return VersionWeights(
                write_weights(found, self.base, self._fingerprint, over=free, products=self._products), None
            )
        return VersionWeights(self.base, read_updates(found, self.base, self._fingerprint))
