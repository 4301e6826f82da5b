"""Phase 2: rollouts. Every version that is published is sampled from, and caches, batches and warm starts pay off."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_grpo.settings.applicability import not_applicable
from pytest_grpo.settings.config import PLUGIN_CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from grpo_core.config import GrpoConfig
    from grpo_core.environments import Environment
    from grpo_core.rollout.protocol import GenerationRequest
    from grpo_core.schedule.stack import LocalStack
    from grpo_core.types import Int32
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings
    from pytest_grpo.types import Sample

    from .conftest import BuildStack, GrpoArms, GrpoThreshold, ReferenceArm, WorkloadFor
    from .workload import Workload

COMPACT_GAME = {"name": "diplomacy", "compact_prompts": True}
NUM_PROMPTS, GROUP_SIZE, MAX_COMPLETION_TOKENS = 3, 4, 24
NUM_PROBE_TOKENS = 4
NUM_SHARED_TOKENS, NUM_OWN_TOKENS = 48, 20
MIN_ADAPTER_EFFECT_NATS = 1e-3


@pytest.fixture
def settings(pytestconfig: pytest.Config, tmp_path: Path) -> SystemSettings:
    """As the system's, but for the folder."""
    from pytest_grpo.systems.load import settings_of

    return settings_of(pytestconfig.stash[PLUGIN_CONFIG].run, tmp_path)


@pytest.fixture
def workload(workload_for: WorkloadFor) -> Workload:
    return workload_for(NUM_PROMPTS, GROUP_SIZE, MAX_COMPLETION_TOKENS)


@pytest.mark.phase2
def test_every_published_version_is_sampled_from(
    grpo_gate: Gate, grpo_system: GrpoSystem, settings: SystemSettings, workload: Workload
) -> None:
    """Versions published one after the other, and visited back and forth: from memory and from disk.

    What the sampler reports is held against ``transformers``, with the weights that were published merged by hand.
    """
    from .checks.plain_policy import PlainPolicy
    from .checks.precision import needs_float32
    from .checks.versions import KnownVersions, changed_weights

    needs_float32(settings, "versions are told apart by their probabilities")
    plain = PlainPolicy(settings.model, scaling=settings.lora_alpha / settings.lora_rank)
    prompts = short_prompts(grpo_system.encode, workload)[:1]
    first = grpo_system.weights()
    published: dict[int, dict[str, Tensor]] = {}
    num_wrong = 0

    def visit(number: int, *, cached: bool = True) -> None:
        nonlocal num_wrong
        grpo_system.swap_adapter(number, cached=cached)
        sampled = grpo_system.rollout(prompts, 2, NUM_PROBE_TOKENS, seed=number).completions[0]
        answers = [(prompts[0], each.completion_ids, each.sampling_logprobs) for each in sampled]
        num_wrong += not KnownVersions(plain, published).is_from(number, answers)

    for seed in range(3):
        weights = changed_weights(first, seed)
        grpo_system.load_weights(weights)
        number = grpo_system.publish_adapter()
        published[number] = plain.merged(weights)
        visit(number)
    for cached in (True, False):
        for number in (*published, *reversed(published)):
            visit(number, cached=cached)
    grpo_gate.check("versions_not_reached", num_wrong)


def short_prompts(encode: Callable[[str], Int32], workload: Workload) -> list[Int32]:
    """Two prompts: the beginning that they share, over several pages of the prefix cache, and each one's own end.

    Prompts that are shorter are repeated.
    """
    import numpy as np

    first, second = (encode(prompt) for prompt in (workload.prompts[0], workload.prompts[-1]))
    shared = np.resize(first, NUM_SHARED_TOKENS)
    ends = np.resize(first[::-1], NUM_OWN_TOKENS)[::-1], np.roll(np.resize(second[::-1], NUM_OWN_TOKENS)[::-1], 1)
    return [np.concatenate([shared, end]) for end in ends]


@pytest.mark.phase2
def test_nothing_is_stale_after_a_swap(
    grpo_gate: Gate, build_stack_for: BuildStack, settings: SystemSettings, workload: Workload
) -> None:
    """The same prompts right before and after each swap, and under way during it: each answer is of its own version.

    Versions go from the trainer to the sampler as in training. The prompts share their first pages.
    """
    from .checks.plain_policy import PlainPolicy
    from .checks.precision import needs_float32
    from .checks.versions import KnownVersions, publish_next

    needs_float32(settings, "versions are told apart by their probabilities")
    with build_stack_for("stale", schedule={"max_policy_lag_steps": 2}) as stack:
        model = stack.config.model
        plain = PlainPolicy(model.name, scaling=model.lora_alpha / model.lora_rank)
        known = KnownVersions(plain, {0: {}, **{number: plain.merged(publish_next(stack)) for number in (1, 2, 3)}})
        num_stale = 0
        for before, after in itertools.pairwise((0, 1, 2, 3, 2, 1, 0, 3)):
            stack.engine.use_version(before)
            under_way = [stack.engine.submit(request) for request in siblings(stack, workload)]
            ended = {outcome.ticket: outcome.result for outcome in stack.engine.step()}
            stack.engine.use_version(after)
            asked = dict.fromkeys(under_way, before)
            asked |= dict.fromkeys([stack.engine.submit(request) for request in siblings(stack, workload)], after)
            while len(ended) < len(asked):
                ended |= {outcome.ticket: outcome.result for outcome in stack.engine.step()}
            for ticket, completion in ended.items():
                assert not isinstance(completion, Exception), completion
                num_stale += known.is_stale(asked[ticket], completion)
    grpo_gate.check("stale_answers", num_stale)


def siblings(stack: LocalStack, workload: Workload) -> list[GenerationRequest]:
    """Two siblings of each of two prompts, with their reference log-probabilities."""
    from grpo_core.rollout.protocol import GenerationRequest, SamplingParams

    prompts = short_prompts(stack.tokenizer.encode, workload)
    sampling = [SamplingParams(seed, max_tokens=NUM_PROBE_TOKENS, ignore_stop=True) for seed in range(2)]
    return [GenerationRequest(ids, drawn, want_ref_logprobs=True) for ids in prompts for drawn in sampling]


@pytest.mark.phase2
def test_no_canary_dies(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    """The canaries of ``grpo doctor``, but for the one that watches the memory for minutes."""
    from grpo_core.model.policy import load_policy
    from grpo_core.rollout.canaries import canaries_for
    from grpo_core.rollout.canaries.reference import RANK
    from grpo_core.rollout.canaries.subject import Subject

    with build_stack_for("canaries", model={"lora_rank": RANK}) as stack:
        policy = load_policy(stack.config.model)
        subject = Subject(stack.engine, stack.store, stack.config.run, policy, stack.tokenizer)
        *canaries, _memory = canaries_for(subject, num_swaps=1, num_requests=1)
        failed = [result for result in (canary.run(subject) for canary in canaries) if not result.passed]
    print(*failed, sep="\n")
    grpo_gate.check("canaries_failed", len(failed))


@pytest.mark.phase2
def test_a_second_request_for_a_version_is_a_hit(grpo_gate: Gate, grpo_system: GrpoSystem) -> None:
    version = publish_changed_adapter(grpo_system)
    grpo_system.swap_adapter(version)
    before = grpo_system.counters["adapter_cache_hits"]
    grpo_system.swap_adapter(version)
    grpo_gate.check("adapter_cache_hits", grpo_system.counters["adapter_cache_hits"] - before)


@pytest.mark.phase2
def test_a_cached_adapter_loads_at_once(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    grpo_system: GrpoSystem,
    workload: Workload,
    sampling_reference: ReferenceArm,
) -> None:
    """Loading a published version from memory and from disk. Either way the sampler must answer as that version."""
    from pytest_grpo.agreement import close_values
    from pytest_grpo.types import Sample

    prompts = [grpo_system.encode(prompt) for prompt in workload.prompts[:1]]

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

    cached, cold, _ = grpo_arms(
        agree=agree,
        cached=lambda: load(10, cached=True),
        cold=lambda: load(2, cached=False),
        reference=sampling_reference,
    )
    assert cached.loads_per_second >= grpo_threshold("cached_adapter_load_speedup") * cold.loads_per_second


def publish_changed_adapter(system: GrpoSystem) -> int:
    """A version whose answers differ from the base model's."""
    from .checks.versions import changed_weights

    system.load_weights(changed_weights(system.weights(), seed=0))
    return system.publish_adapter()


@pytest.mark.phase2
def test_a_batch_beats_one_at_a_time(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    grpo_system: GrpoSystem,
    settings: SystemSettings,
    workload: Workload,
    sampling_reference: ReferenceArm,
) -> None:
    """The same requests together and one by one. The other sequences of a batch must not change a greedy answer."""
    from pytest_grpo.types import Sample

    from .checks.precision import greedy_output, same_greedy

    if grpo_system.name == "grpo_core" and settings.engine == "plain":
        not_applicable("rollout.engine is plain, which decodes one request at a time")
    prompts = [grpo_system.encode(prompt) for prompt in workload.prompts]
    group_size, max_tokens = workload.group_size, workload.max_completion_tokens

    def generate(batch_size: int | None) -> Sample:
        rollout = grpo_system.rollout(prompts, group_size, max_tokens, seed=0, batch_size=batch_size)
        return Sample(rollout.seconds, {"tokens": rollout.num_completion_tokens}, output=greedy(batch_size))

    @functools.cache
    def greedy(batch_size: int | None) -> list[list[float]]:
        rollout = grpo_system.rollout(prompts, 1, max_tokens, seed=0, batch_size=batch_size, greedy=True)
        return greedy_output(settings, rollout, grpo_system.logprob_tolerance)

    batched, single, _ = grpo_arms(
        agree=same_greedy(settings, grpo_system.logprob_tolerance),
        batched=lambda: generate(None),
        single=lambda: generate(1),
        reference=sampling_reference,
    )
    assert batched.tokens_per_second >= grpo_threshold("batched_speedup") * single.tokens_per_second


@pytest.mark.phase2
def test_rollouts_against_another_system(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    grpo_system: GrpoSystem,
    grpo_versus: GrpoSystem,
    settings: SystemSettings,
    workload: Workload,
    sampling_reference: ReferenceArm,
) -> None:
    """The same prompts and greedy tokens from the system and from the one of ``--grpo-versus``, in the same run."""
    from pytest_grpo.types import Sample

    from .checks.precision import greedy_output, same_greedy

    prompts = [grpo_system.encode(prompt) for prompt in workload.prompts]

    tolerance = max(grpo_system.logprob_tolerance, grpo_versus.logprob_tolerance)

    def generate(system: GrpoSystem) -> Sample:
        rollout = system.rollout(prompts, workload.group_size, workload.max_completion_tokens, seed=0, greedy=True)
        answers = greedy_output(settings, rollout, tolerance)
        return Sample(rollout.seconds, {"tokens": rollout.num_completion_tokens}, output=answers)

    mine, other, _ = grpo_arms(
        agree=same_greedy(settings, tolerance),
        **{grpo_system.name: lambda: generate(grpo_system), grpo_versus.name: lambda: generate(grpo_versus)},
        reference=sampling_reference,
    )
    assert mine.tokens_per_second >= grpo_threshold("versus_rollout_speedup") * other.tokens_per_second


@pytest.mark.phase2
def test_a_warm_start_skips_the_opening(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    build_stack_for: BuildStack,
    grpo_run: GrpoConfig,
    is_embedded: bool,
    sampling_reference: ReferenceArm,
) -> None:
    """Time to the first sample of an episode, with the opening in the state cache and without."""
    from pytest_grpo.agreement import same_tokens
    from pytest_grpo.types import Sample

    if not is_embedded:
        needs_an_opening(grpo_run)
    years = {"opening_years": grpo_run.environment.effective_opening_years or 1}
    game = {"environment": {**COMPACT_GAME, "opening_years": 2}}
    stacks = {
        name: build_stack_for(
            name,
            embedded=game,
            environment={**({} if is_embedded else years), "use_state_cache": name == "warm"},
            rollout={"num_groups": 1, "group_size": 1, "max_refill_rounds": 0},
            training={"advantages": "mean_only"},
        )
        for name in ("cold", "warm")
    }

    def first_sample(name: str) -> Sample:
        collector = stacks[name].collector
        stacks[name].engine.forget_prompts()  # of the sample before
        start = time.perf_counter()
        episodes = collector.start(0)
        position = position_of(episodes[0].environment)
        collector.play_round(episodes, 0)
        return Sample(time.perf_counter() - start, output=position)

    warm, cold, _ = grpo_arms(
        agree=same_tokens,
        warm=lambda: first_sample("warm"),
        cold=lambda: first_sample("cold"),
        reference=sampling_reference,
    )
    assert cold.seconds >= grpo_threshold("warm_start_speedup") * warm.seconds


def needs_an_opening(run: GrpoConfig) -> None:
    """Leave the test where the run's episodes start at once."""
    from .checks.own_run import environment_factory

    years = {"opening_years": run.environment.effective_opening_years or 1, "use_state_cache": False}
    environment = environment_factory(
        run.model_copy(update={"environment": run.environment.model_copy(update=years)})
    )()
    environment.reset(0)
    if not environment.in_opening:
        not_applicable(f"environment {run.environment.name} has no opening that a state cache could skip")


def position_of(environment: Environment) -> object:
    """Where an episode stands. Of a game of Diplomacy, without what its snapshot has beside the position."""
    snapshot = environment.snapshot()
    return snapshot.get("state", snapshot)
