"""Phase 5: prompt tuning. Compact prompts take less time for the same orders, and change no probability.

Of a run of the user's, its variants take the place of compact prompts: other settings that it is compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from pytest_grpo.settings.applicability import not_applicable
from pytest_grpo.settings.config import PLUGIN_CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from grpo_core.config import GrpoConfig
    from grpo_core.schedule.stack import LocalStack
    from grpo_core.types import Completion
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.types import Sample

    from .conftest import BuildStack, GrpoArms, GrpoThreshold, ReferenceArm

PROMPTS = ("compact", "full")
SAMPLERS = (("torch", "compact"), ("torch", "full"), ("plain", "compact"), ("vllm", "compact"))
EQUAL_ORDERS = f"{__package__}.checks.equal_orders:make"
MAX_KV_BYTES = 256 << 20  # vLLM reserves them at its start

GameStacks = Callable[..., "dict[str, LocalStack]"]


@pytest.fixture
def game_stacks(build_stack_for: BuildStack) -> GameStacks:
    """One game for each of ``PROMPTS``. Tests that use it are about the embedded default only."""

    def build(environment: str = "diplomacy") -> dict[str, LocalStack]:
        return {name: build_game(build_stack_for, name, name, environment=environment) for name in PROMPTS}

    return build


@pytest.mark.phase5
@pytest.mark.filterwarnings("ignore")  # vLLM's own
def test_the_trainer_gives_the_samplers_probabilities(
    grpo_gate: Gate,
    build_stack_for: BuildStack,
    grpo_run: GrpoConfig,
    is_embedded: bool,
    pytestconfig: pytest.Config,
    tmp_path: Path,
) -> None:
    """Samples have the same probability in training: the on-policy ratio is 1, for either prompt and each engine.

    ``transformers`` says what the probability is. vLLM is held to it where it is installed.
    """
    from pytest_grpo.systems.load import settings_of

    from .checks.plain_policy import PlainPolicy
    from .checks.precision import needs_float32
    from .checks.ratios import ratio_error

    if not is_embedded:
        needs_float32(settings_of(pytestconfig.stash[PLUGIN_CONFIG].run, tmp_path), "a ratio of 1 is checked to 0.001")
    errors: list[float] = []
    for build in samplers(build_stack_for, grpo_run, is_embedded=is_embedded):
        with build() as stack:
            model = stack.config.model
            plain = PlainPolicy(model.name, scaling=model.lora_alpha / model.lora_rank)
            errors.append(ratio_error(stack, plain, plays_on=not is_embedded))
    grpo_gate.check("sampler_ratio_error", max(errors))


def samplers(build_stack_for: BuildStack, run: GrpoConfig, *, is_embedded: bool) -> Iterator[Callable[[], LocalStack]]:
    """Builds one stack each: of the embedded default for either prompt and each engine, else of the run as it is and
    of each variant."""
    if is_embedded:
        for engine, name in SAMPLERS:
            if engine != "vllm" or find_spec("vllm") is not None:
                yield partial(build_game, build_stack_for, name, f"{engine}-{name}", engine=engine)
        return
    for variant in (None, *run.bench.variants):
        yield partial(build_variant, build_stack_for, run, variant, training={"old_logprobs": "sampling"})


def build_variant(
    build_stack_for: BuildStack,
    run: GrpoConfig,
    variant: str | None,
    *,
    beside: LocalStack | None = None,
    **needed: dict[str, Any],
) -> LocalStack:
    """The run with the settings of ``variant``, or as it is; one batch, whose step changes nothing."""
    from grpo_core.config.values import merged

    changes = run.bench.variants[variant] if variant is not None else {}
    settings = merged(merged({"training": {"learning_rate": 0.0}}, needed), changes)
    return build_stack_for(variant or "run", beside=beside, **settings)


@pytest.mark.phase5
def test_a_variant_raises_tokens_per_second(
    grpo_gate: Gate,
    grpo_arms: GrpoArms,
    build_stack_for: BuildStack,
    grpo_run: GrpoConfig,
    variant: str | None,
    sampling_reference: ReferenceArm,
) -> None:
    """``timing/tokens_per_second`` of the first turns of the run with the settings of ``[bench.variants.<name>]``,
    over the run as it is."""
    from pytest_grpo.agreement import nothing_to_check

    if variant is None:
        not_applicable("the run has no variant to compare with; name one: [bench.variants.compact]")
    own = f"{variant}_tokens_per_second_ratio"
    threshold = grpo_gate.threshold(own if own in grpo_gate.thresholds else "variant_tokens_per_second_ratio")
    base = build_variant(build_stack_for, grpo_run, None)
    changed = build_variant(build_stack_for, grpo_run, variant, beside=base)
    changed, base, _ = grpo_arms(
        agree=nothing_to_check,  # other prompts or settings have other answers
        **{variant: partial(first_turns, changed), "run": partial(first_turns, base)},
        reference=sampling_reference,
    )
    assert changed.tokens_per_second >= threshold * base.tokens_per_second


@pytest.mark.phase5
def test_compact_prompts_are_short(grpo_arms: GrpoArms, game_stacks: GameStacks) -> None:
    """The engine reads at most half the tokens. They are counted in the prompts that it answered."""
    from pytest_grpo.agreement import same_tokens

    stacks = game_stacks()
    compact, full = grpo_arms(
        agree=same_tokens,
        compact=lambda: movement_phase(stacks["compact"]),
        full=lambda: movement_phase(stacks["full"]),
    )
    assert 2 * compact.num_prompt_tokens <= full.num_prompt_tokens


@pytest.mark.phase5
def test_compact_prompts_take_less_time_for_the_same_orders(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, game_stacks: GameStacks, sampling_reference: ReferenceArm
) -> None:
    """Seconds of the first movement phase, with orders that are equal work: as many choices and as many tokens.

    Tokens per second also rise with tokens that nobody needs; these seconds fall only with the work.
    """
    from pytest_grpo.agreement import same_tokens

    stacks = game_stacks(EQUAL_ORDERS)
    compact, full, _ = grpo_arms(
        agree=same_tokens,
        compact=lambda: movement_phase(stacks["compact"], counts_tokens=True),
        full=lambda: movement_phase(stacks["full"], counts_tokens=True),
        reference=sampling_reference,
    )
    assert full.seconds >= grpo_threshold("compact_seconds_ratio") * compact.seconds


@pytest.mark.phase5
def test_compact_prompts_raise_tokens_per_second(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, game_stacks: GameStacks, sampling_reference: ReferenceArm
) -> None:
    """``timing/tokens_per_second`` of the first movement phase of a game: seven powers.

    With both prompts every power must give the same number of orders.
    """
    from pytest_grpo.agreement import same_tokens

    stacks = game_stacks()
    compact, full, _ = grpo_arms(
        agree=same_tokens,
        compact=lambda: movement_phase(stacks["compact"]),
        full=lambda: movement_phase(stacks["full"]),
        reference=sampling_reference,
    )
    assert compact.tokens_per_second >= grpo_threshold("compact_tokens_per_second_ratio") * full.tokens_per_second


def first_turns(stack: LocalStack) -> Sample:
    """The first turn of each episode of a batch."""
    from pytest_grpo.types import Sample

    episodes = stack.collector.start(0)
    stack.engine.forget_prompts()
    num_before = stack.engine.counters.num_completion_tokens
    start = time.perf_counter()
    stack.collector.play_round(episodes, 0)
    seconds = time.perf_counter() - start
    return Sample(seconds, {"tokens": stack.engine.counters.num_completion_tokens - num_before})


def movement_phase(stack: LocalStack, *, counts_tokens: bool = False) -> Sample:
    """The first movement phase of a game. Its output is the number of orders of each power, and perhaps of tokens."""
    from pytest_grpo.types import Sample

    episodes = stack.collector.start(0)
    stack.engine.forget_prompts()  # while training, every batch is the first one of its policy version
    start = time.perf_counter()
    stack.collector.play_round(episodes, 0)
    seconds = time.perf_counter() - start
    groups = stack.collector.groups(episodes, 0)
    turns = {group.group_id: [turn for t in group.trajectories for turn in t.turns] for group in groups}
    work = {power: [work_of(stack, turn)[: 3 if counts_tokens else 1] for turn in of] for power, of in turns.items()}
    answers = [turn for of in turns.values() for turn in of]
    num_tokens = sum(len(turn.completion_ids) for turn in answers)
    num_prompt_tokens = sum(len(turn.prompt_ids) for turn in answers)
    return Sample(seconds, {"tokens": num_tokens, "num_prompt_tokens": num_prompt_tokens}, output=work)


def work_of(stack: LocalStack, turn: Completion) -> tuple[int, int, int]:
    """The orders, tokens and choices of an answer."""
    num_orders = stack.tokenizer.decode(turn.completion_ids).count("\n")
    return num_orders, len(turn.completion_ids), int(turn.completion_mask.sum())


def build_game(
    build_stack_for: BuildStack, prompts: str, run: str, *, environment: str = "diplomacy", engine: str = "torch"
) -> LocalStack:
    """One game, with ``compact`` or ``full`` prompts, that trains on nothing."""
    return build_stack_for(
        run,
        environment={"name": environment, "compact_prompts": prompts == "compact"},
        rollout={"num_groups": 1, "group_size": 1, "engine": engine, "max_kv_bytes": MAX_KV_BYTES},
        training={"learning_rate": 0.0, "advantages": "mean_only"},
    )
