"""Faults that phase 2 must detect: missing caches or batching, and outputs of another policy, prompt or position."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bench.faults.fault import WRONG_ANSWERS, Fault

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
    from grpo_core.environments.state_cache import Key, StateCache
    from grpo_core.lora.cache import CacheResult, LoRACache
    from grpo_core.rollout.protocol import GenerationRequest, Outcome, SamplingParams
    from grpo_core.rollout.torch_engine.weights.adapters import LowRank, Updates
    from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
    from grpo_core.types import Adapter, Completion, Float32, Int32, PolicyVersion, PolicyWeights


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


def later_adapters_never_merged(patch: pytest.MonkeyPatch) -> None:
    """The first adapter is merged; for later ones the copy is taken to be up to date."""
    from grpo_core.rollout.torch_engine.weights.adapters import FusedAdapter

    original = FusedAdapter._write
    written: set[tuple[int, tuple[int, str]]] = set()

    def write(self: FusedAdapter, key: tuple[int, str], updates: Sequence[LowRank]) -> None:
        if (id(self), key) not in written:
            written.update({(id(self), key)} if updates else ())
            original(self, key, updates)

    patch.setattr(FusedAdapter, "_write", write)


def newest_version_always_loaded(patch: pytest.MonkeyPatch) -> None:
    """The store gives the newest weights, under the number of the version that was asked for."""
    from grpo_core.lora.store import AdapterStore

    original = AdapterStore.load

    def load(self: AdapterStore, version: PolicyVersion) -> PolicyWeights:
        return replace(original(self, self.latest(version.run) or version), version=version)

    patch.setattr(AdapterStore, "load", load)


def alpha_over_rank_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The sampler adds an adapter without its factor alpha/rank."""
    from grpo_core.rollout.torch_engine.weights import versions

    original = versions.read_updates

    def read_updates(adapter: Adapter, weights: DecoderWeights, fingerprint: str) -> Updates:
        return original(replace(adapter, alpha=float(adapter.rank)), weights, fingerprint)

    patch.setattr(versions, "read_updates", read_updates)


def last_layer_keeps_the_base(patch: pytest.MonkeyPatch) -> None:
    """Adapters change all layers but the last one."""
    from grpo_core.rollout.torch_engine.weights import versions

    original = versions.read_updates

    def read_updates(adapter: Adapter, weights: DecoderWeights, fingerprint: str) -> Updates:
        updates = original(adapter, weights, fingerprint)
        return {key: rows for key, rows in updates.items() if key[0] < len(weights.layers) - 1}

    patch.setattr(versions, "read_updates", read_updates)


def prefix_cache_survives_a_swap(patch: pytest.MonkeyPatch) -> None:
    """Cached prompts are kept over a swap, for whatever version comes next."""
    from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode

    original = PrefixCache.acquire

    def acquire(self: PrefixCache, version: int, prompt_ids: Int32) -> PrefixNode:
        return original(self, 0, prompt_ids)

    patch.setattr(PrefixCache, "acquire", acquire)
    patch.setattr(PrefixCache, "drop", lambda self, version: None)


def published_a_step_late(patch: pytest.MonkeyPatch) -> None:
    """The trainer publishes the weights that it had before the step."""
    from grpo_core.training.trainer import Trainer

    original = Trainer.weights
    before: dict[int, PolicyWeights] = {}

    def weights(self: Trainer) -> PolicyWeights:
        now = original(self)
        late = before.get(id(self), now)
        before[id(self)] = now
        return replace(late, version=now.version)

    patch.setattr(Trainer, "weights", weights)


def requests_under_way_change_version(patch: pytest.MonkeyPatch) -> None:
    """A swap changes the weights of the requests that are under way, too; they keep their label."""
    from grpo_core.rollout.torch_engine.weights.versions import Versions

    patch.setattr(Versions, "weights_of", lambda self, number: self._running)
    patch.setattr(Versions, "is_held", lambda self, number: False)


def reference_is_the_policy(patch: pytest.MonkeyPatch) -> None:
    """Reference log-probabilities are those of the policy itself, so that the KL term is always 0."""
    from grpo_core.rollout.sequence import SequenceState

    original = SequenceState.completion

    def completion(self: SequenceState, ref_logprobs: Float32 | None = None) -> Completion:
        made = original(self, ref_logprobs)
        return made if ref_logprobs is None else replace(made, ref_logprobs=made.sampling_logprobs)

    patch.setattr(SequenceState, "completion", completion)


def answers_labelled_with_the_active_version(patch: pytest.MonkeyPatch) -> None:
    """A completion says the version that is active when it ends, not the one that it was sampled from."""
    from grpo_core.rollout.torch_engine.engine import TorchEngine

    original = TorchEngine.step

    def step(self: TorchEngine) -> list[Outcome]:
        return [
            replace(outcome, result=replace(outcome.result, policy_version=self.policy_version))
            if not isinstance(outcome.result, Exception)
            else outcome
            for outcome in original(self)
        ]

    patch.setattr(TorchEngine, "step", step)


def top_p_after_the_draw(patch: pytest.MonkeyPatch) -> None:
    """Tokens are drawn from the whole vocabulary, and top_p only shapes the support that is recorded."""
    from grpo_core.rollout import sampling

    original = sampling._narrowed

    def narrowed(logprobs: Tensor, params: Sequence[SamplingParams]) -> Tensor:
        return original(logprobs, [replace(each, top_p=1.0) for each in params])

    patch.setattr(sampling, "_narrowed", narrowed)


FAULTS = (
    Fault(2, ("cached_adapter_load_speedup",), cache_bypassed),
    Fault(2, ("batched_speedup",), batch_size_one),
    Fault(2, ("adapter_cache_hits",), hits_not_counted),
    Fault(2, ("cached_adapter_load_speedup",), adapter_never_merged, WRONG_ANSWERS),
    Fault(2, ("batched_speedup",), padding_read_as_prompt, WRONG_ANSWERS),
    Fault(2, ("warm_start_speedup",), warm_start_never_warm),
    Fault(2, ("warm_start_speedup",), restore_drops_influence, WRONG_ANSWERS),
    Fault(2, ("versions_not_reached",), later_adapters_never_merged),
    Fault(2, ("versions_not_reached",), newest_version_always_loaded),
    Fault(2, ("versions_not_reached",), alpha_over_rank_forgotten),
    Fault(2, ("versions_not_reached",), last_layer_keeps_the_base),
    Fault(2, ("stale_answers",), prefix_cache_survives_a_swap),
    Fault(2, ("stale_answers",), published_a_step_late),
    Fault(2, ("stale_answers",), requests_under_way_change_version),
    Fault(2, ("stale_answers",), reference_is_the_policy),
    Fault(2, ("stale_answers",), answers_labelled_with_the_active_version),
    Fault(2, ("canaries_failed",), top_p_after_the_draw),
)
