"""Faults that phase 2 must detect: missing caches or batching, and outputs of another policy, prompt or position."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bench.faults.fault import WRONG_ANSWERS, Fault

if TYPE_CHECKING:
    from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
    from grpo_core.environments.state_cache import Key, StateCache
    from grpo_core.lora.cache import CacheResult, LoRACache
    from grpo_core.rollout.protocol import GenerationRequest
    from grpo_core.types import Completion, PolicyVersion


def cache_bypassed(patch: pytest.MonkeyPatch) -> None:
    """The adapter cache reads every version from disk."""
    from grpo_core.lora.cache import CacheResult, LoRACache

    def get(self: LoRACache, version: PolicyVersion) -> CacheResult:
        start = time.perf_counter()
        adapter = self._store.load(version)
        return CacheResult(adapter, hit=False, load_ms=(time.perf_counter() - start) * 1e3)

    patch.setattr(LoRACache, "get", get)


def batch_size_one(patch: pytest.MonkeyPatch) -> None:
    """The engine decodes one sequence at a time, whatever it is told."""
    from grpo_core.rollout.torch_engine.engine import TorchEngine

    original = TorchEngine.__init__

    def init(self: TorchEngine, *parts: Any, **limits: Any) -> None:
        original(self, *parts, **{**limits, "max_batch_sequences": 1})

    patch.setattr(TorchEngine, "__init__", init)


def hits_not_counted(patch: pytest.MonkeyPatch) -> None:
    """The adapter cache answers from memory, but its counters never say so."""
    from grpo_core.lora.cache import LoRACache

    original = LoRACache._count

    def count(self: LoRACache, hits: int = 0, **others: int) -> None:
        original(self, **others)

    patch.setattr(LoRACache, "_count", count)


def adapter_never_merged(patch: pytest.MonkeyPatch) -> None:
    """A swap changes the version's number and not the sampler's weights."""
    from grpo_core.rollout.torch_engine.weights.adapters import FusedAdapter

    patch.setattr(FusedAdapter, "merge", lambda self, updates: replace(self._base))


def padding_read_as_prompt(patch: pytest.MonkeyPatch) -> None:
    """Prompts that are asked for together are padded to equal length, and the padding counts as text."""
    import numpy as np

    from grpo_core.rollout.torch_engine.engine import TorchEngine

    original = TorchEngine.generate

    def generate(self: TorchEngine, requests: Sequence[GenerationRequest]) -> list[Completion]:
        longest = max(len(request.prompt_ids) for request in requests)
        padded = [np.pad(request.prompt_ids, (0, longest - len(request.prompt_ids))) for request in requests]
        together = [replace(request, prompt_ids=ids) for request, ids in zip(requests, padded, strict=True)]
        return original(self, together)

    patch.setattr(TorchEngine, "generate", generate)


def warm_start_never_warm(patch: pytest.MonkeyPatch) -> None:
    """The state cache never finds what it stored, so that each opening is played again."""
    from grpo_core.environments.state_cache import StateCache

    def get(self: StateCache, key: Key) -> dict[str, Any] | None:
        self.num_misses += 1
        return None

    patch.setattr(StateCache, "get", get)


def restore_drops_influence(patch: pytest.MonkeyPatch) -> None:
    """A restored game has forgotten which power was last in a province."""
    from grpo_core.environments.diplomacy.game import DiplomacyEnvironment

    original = DiplomacyEnvironment.restore

    def restore(self: DiplomacyEnvironment, snapshot: Mapping[str, Any]) -> None:
        state = snapshot["state"]
        forgotten = {power: [] for power in state["influence"]}
        original(self, {**snapshot, "state": {**state, "influence": forgotten}})

    patch.setattr(DiplomacyEnvironment, "restore", restore)


FAULTS = (
    Fault(2, ("cached_adapter_load_speedup",), cache_bypassed),
    Fault(2, ("batched_speedup",), batch_size_one),
    Fault(2, ("adapter_cache_hits",), hits_not_counted),
    Fault(2, ("cached_adapter_load_speedup",), adapter_never_merged, WRONG_ANSWERS),
    Fault(2, ("batched_speedup",), padding_read_as_prompt, WRONG_ANSWERS),
    Fault(2, ("warm_start_speedup",), warm_start_never_warm),
    Fault(2, ("warm_start_speedup",), restore_drops_influence, WRONG_ANSWERS),
)
