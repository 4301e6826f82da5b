"""Phase 2: rollout throughput. The adapter cache, batching and warm starts each pay off."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from bench.conftest import movement_prompts

if TYPE_CHECKING:
    from bench.conftest import BuildStack, GrpoArms, GrpoThreshold
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem
    from pytest_grpo.types import Sample

COMPACT_GAME = {"name": "diplomacy", "compact_prompts": True}
NUM_PROMPTS, GROUP_SIZE, MAX_COMPLETION_TOKENS = 3, 4, 24
NUM_PROBE_TOKENS = 4
MIN_ADAPTER_EFFECT_NATS = 1e-3


@pytest.mark.phase2
def test_a_cached_adapter_loads_at_once(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem
) -> None:
    """Loading a published version from memory and from disk. Either way the sampler must answer as that version."""
    from pytest_grpo.agreement import close_values
    from pytest_grpo.types import Sample

    prompts = [grpo_system.encode(prompt) for prompt in movement_prompts(compact=True)[:1]]

    def probe() -> list[list[float]]:
        answer = grpo_system.rollout(prompts, 2, NUM_PROBE_TOKENS, seed=0)
        return [completion.sampling_logprobs.tolist() for group in answer.completions for completion in group]

    base = probe()
    version = publish_changed_adapter(grpo_system)

    def load(num: int, *, cached: bool) -> Sample:
        loads_ms = [grpo_system.swap_adapter(version, cached=cached).load_ms for _ in range(num)]
        return Sample(sum(loads_ms) / 1e3, {"loads": num}, output=probe())

    def agree(outputs: Mapping[str, object]) -> str:
        effect = close_values(atol=MIN_ADAPTER_EFFECT_NATS)({"base model": base, "adapter": outputs["cold"]})
        return close_values(atol=1e-5)(outputs) if effect else "the adapter never reached the sampler"

    cached, cold = grpo_arms(agree=agree, cached=lambda: load(10, cached=True), cold=lambda: load(2, cached=False))
    assert cached.loads_per_second >= grpo_threshold("cached_adapter_load_speedup") * cold.loads_per_second


def publish_changed_adapter(system: GrpoSystem) -> int:
    """A version whose answers differ from the base model's."""
    import numpy as np

    draw = np.random.default_rng(0)
    weights = system.weights()
    system.load_weights(
        {name: values + draw.normal(0, 0.05, values.shape).astype(values.dtype) for name, values in weights.items()}
    )
    return system.publish_adapter()


@pytest.mark.phase2
def test_a_second_request_for_a_version_is_a_hit(grpo_gate: Gate, grpo_system: GrpoSystem) -> None:
    version = publish_changed_adapter(grpo_system)
    grpo_system.swap_adapter(version)
    before = grpo_system.counters["adapter_cache_hits"]
    grpo_system.swap_adapter(version)
    grpo_gate.check("adapter_cache_hits", grpo_system.counters["adapter_cache_hits"] - before)


@pytest.mark.phase2
def test_a_batch_beats_one_at_a_time(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem
) -> None:
    """The same requests together and one by one. The other sequences of a batch must not change a greedy answer."""
    from pytest_grpo.agreement import same_tokens
    from pytest_grpo.types import Sample

    prompts = [grpo_system.encode(prompt) for prompt in movement_prompts(compact=True)[:NUM_PROMPTS]]

    def generate(batch_size: int | None) -> Sample:
        rollout = grpo_system.rollout(prompts, GROUP_SIZE, MAX_COMPLETION_TOKENS, seed=0, batch_size=batch_size)
        return Sample(rollout.seconds, {"tokens": rollout.num_completion_tokens}, output=greedy(batch_size))

    @functools.cache
    def greedy(batch_size: int | None) -> list[list[int]]:
        rollout = grpo_system.rollout(prompts, 1, MAX_COMPLETION_TOKENS, seed=0, batch_size=batch_size, greedy=True)
        return [answer.completion_ids.tolist() for group in rollout.completions for answer in group]

    batched, single = grpo_arms(agree=same_tokens, batched=lambda: generate(None), single=lambda: generate(1))
    assert batched.tokens_per_second >= grpo_threshold("batched_speedup") * single.tokens_per_second


@pytest.mark.phase2
def test_rollouts_against_another_system(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem, grpo_versus: GrpoSystem
) -> None:
    """The same prompts and greedy tokens from the system and from the one of ``--grpo-versus``, in the same run."""
    from pytest_grpo.agreement import same_tokens
    from pytest_grpo.types import Sample

    prompts = [grpo_system.encode(prompt) for prompt in movement_prompts(compact=True)[:NUM_PROMPTS]]

    def generate(system: GrpoSystem) -> Sample:
        rollout = system.rollout(prompts, GROUP_SIZE, MAX_COMPLETION_TOKENS, seed=0, greedy=True)
        answers = [answer.completion_ids.tolist() for group in rollout.completions for answer in group]
        return Sample(rollout.seconds, {"tokens": rollout.num_completion_tokens}, output=answers)

    mine, other = grpo_arms(
        agree=same_tokens,
        **{grpo_system.name: lambda: generate(grpo_system), grpo_versus.name: lambda: generate(grpo_versus)},
    )
    assert mine.tokens_per_second >= grpo_threshold("versus_rollout_speedup") * other.tokens_per_second


@pytest.mark.phase2
def test_a_warm_start_skips_the_opening(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, build_stack_for: BuildStack
) -> None:
    """Time to the first sample of an episode, with the opening in the state cache and without."""
    from pytest_grpo.agreement import same_tokens
    from pytest_grpo.types import Sample

    opening = {**COMPACT_GAME, "opening_years": 2}
    one_game = {"rollout": {"num_groups": 1, "group_size": 1}, "training": {"advantages": "mean_only"}}
    stacks = {
        "cold": build_stack_for("cold", environment=opening, **one_game),
        "warm": build_stack_for("warm", environment={**opening, "use_state_cache": True}, **one_game),
    }

    def first_sample(name: str) -> Sample:
        collector = stacks[name].collector
        stacks[name].engine.forget_prompts()  # of the sample before
        start = time.perf_counter()
        episodes = collector.start(0)
        position = episodes[0].environment.snapshot()["state"]
        collector.play_round(episodes, 0)
        return Sample(time.perf_counter() - start, output=position)

    warm, cold = grpo_arms(agree=same_tokens, warm=lambda: first_sample("warm"), cold=lambda: first_sample("cold"))
    assert cold.seconds >= grpo_threshold("warm_start_speedup") * warm.seconds
