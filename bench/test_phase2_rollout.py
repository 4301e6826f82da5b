"""Phase 2: rollout throughput. The adapter cache, batching and warm starts each earn their keep."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.conftest import BuildStack
    from pytest_grpo.gates import Gate
    from pytest_grpo.measure import Sample

COMPACT_GAME = {"name": "diplomacy", "compact_prompts": True}
NUM_PROMPTS, GROUP_SIZE, MAX_COMPLETION_TOKENS = 2, 6, 24


@pytest.mark.phase2
def test_a_cached_adapter_loads_at_once(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    from grpo_core.lora.cache import LoRACache
    from grpo_core.types import PolicyVersion
    from pytest_grpo.measure import Sample

    stack = build_stack_for("adapters")
    stack.store.publish(stack.trainer.adapter())
    version = PolicyVersion("adapters", 0)
    stack.adapters.get(version)

    def load(num: int, *, is_cached: bool) -> Sample:
        start = time.perf_counter()
        for _ in range(num):
            cache = stack.adapters if is_cached else LoRACache(stack.store, max_bytes=1 << 30, max_adapters=4)
            cache.get(version)
        return Sample(num, time.perf_counter() - start)

    grpo_gate.speedup(
        "cached_adapter_load_speedup",
        fast=lambda: load(500, is_cached=True),
        slow=lambda: load(5, is_cached=False),
    )


@pytest.mark.phase2
def test_a_second_request_for_a_version_is_a_hit(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    stack = build_stack_for("hits")
    stack.trainer.step(stack.collector.collect(0))
    stack.store.publish(stack.trainer.adapter())
    stack.engine.use_version(1)
    stack.engine.use_version(1)
    grpo_gate.check("adapter_cache_hits", stack.adapters.counters.hits)


@pytest.mark.phase2
def test_a_batch_beats_one_at_a_time(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    """The same requests, siblings of two groups, asked for together and one by one; the answers must be the same."""
    from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
    from pytest_grpo.measure import Sample

    stack = build_stack_for("batching", environment=COMPACT_GAME, rollout={"num_groups": 1, "group_size": 2})
    episode = stack.collector.start(0)[0]
    prompts = [stack.tokenizer.encode(item.prompt) for item in episode.environment.observe()[:NUM_PROMPTS]]
    requests = [
        GenerationRequest(prompt, SamplingParams(seed=seed, max_tokens=MAX_COMPLETION_TOKENS))
        for prompt in prompts
        for seed in range(GROUP_SIZE)
    ]
    answers: dict[str, list[tuple[int, ...]]] = {}

    def generate(arm: str, size: int) -> Sample:
        start = time.perf_counter()
        batches = [requests[first : first + size] for first in range(0, len(requests), size)]
        done = [completion for batch in batches for completion in stack.engine.generate(batch)]
        seconds = time.perf_counter() - start
        answers[arm] = [tuple(completion.completion_ids.tolist()) for completion in done]
        return Sample(sum(len(answer) for answer in answers[arm]), seconds)

    grpo_gate.speedup(
        "batched_speedup", fast=lambda: generate("batched", len(requests)), slow=lambda: generate("sequential", 1)
    )
    assert answers["batched"] == answers["sequential"], "who shares the batch must not change an answer"


@pytest.mark.phase2
def test_a_warm_start_skips_the_opening(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    """Time to the first sample of an episode, with the opening in the state cache and without."""
    rollout = {"num_groups": 1, "group_size": 2}
    opening = {**COMPACT_GAME, "opening_years": 3}
    cold = build_stack_for("cold", environment=opening, rollout=rollout)
    warm = build_stack_for("warm", environment={**opening, "use_state_cache": True}, rollout=rollout)
    states: dict[str, object] = {}

    def first_sample(name: str) -> None:
        collector = {"cold": cold, "warm": warm}[name].collector
        episodes = collector.start(0)
        states[name] = episodes[0].environment.snapshot()["state"]
        collector.play_round(episodes, 0)

    grpo_gate.speedup(
        "warm_start_speedup", fast=lambda: first_sample("warm"), slow=lambda: first_sample("cold"), pairs=3
    )
    assert states["warm"] == states["cold"], "a cached opening must be the one that was played"
