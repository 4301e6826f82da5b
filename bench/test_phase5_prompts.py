"""Phase 5: prompt tuning. Compact prompts take less time for the same orders, and change no probability."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpo_core.schedule.stack import LocalStack
    from grpo_core.types import Completion
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.types import Sample

    from .conftest import BuildStack, GrpoArms, GrpoThreshold, ReferenceArm

PROMPTS = ("compact", "full")
SAMPLERS = (("torch", "compact"), ("torch", "full"), ("plain", "compact"), ("vllm", "compact"))
EQUAL_ORDERS = f"{__package__}.checks.equal_orders:make"
MAX_KV_BYTES = 256 << 20  # vLLM reserves them at its start


@pytest.mark.phase5
@pytest.mark.filterwarnings("ignore")  # vLLM's own
def test_the_trainer_gives_the_samplers_probabilities(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    """Samples have the same probability in training: the on-policy ratio is 1, for either prompt and each engine.

    ``transformers`` says what the probability is. vLLM is held to it where it is installed.
    """
    from .checks.plain_policy import PlainPolicy
    from .checks.ratios import ratio_error

    errors: list[float] = []
    for engine, name in SAMPLERS:
        if engine == "vllm" and find_spec("vllm") is None:
            continue
        with build_game(build_stack_for, name, f"{engine}-{name}", engine=engine) as stack:
            model = stack.config.model
            plain = PlainPolicy(model.name, scaling=model.lora_alpha / model.lora_rank)
            errors.append(ratio_error(stack, plain))
    grpo_gate.check("sampler_ratio_error", max(errors))


@pytest.mark.phase5
def test_compact_prompts_are_short(grpo_arms: GrpoArms, build_stack_for: BuildStack) -> None:
    """The engine reads at most half the tokens. They are counted in the prompts that it answered."""
    from pytest_grpo.agreement import same_tokens

    stacks = {name: build_game(build_stack_for, name, name) for name in PROMPTS}
    compact, full = grpo_arms(
        agree=same_tokens,
        compact=lambda: movement_phase(stacks["compact"]),
        full=lambda: movement_phase(stacks["full"]),
    )
    assert 2 * compact.num_prompt_tokens <= full.num_prompt_tokens


@pytest.mark.phase5
def test_compact_prompts_take_less_time_for_the_same_orders(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, build_stack_for: BuildStack, sampling_reference: ReferenceArm
) -> None:
    """Seconds of the first movement phase, with orders that are equal work: as many choices and as many tokens.

    Tokens per second also rise with tokens that nobody needs; these seconds fall only with the work.
    """
    from pytest_grpo.agreement import same_tokens

    stacks = {name: build_game(build_stack_for, name, name, environment=EQUAL_ORDERS) for name in PROMPTS}
    compact, full, _ = grpo_arms(
        agree=same_tokens,
        compact=lambda: movement_phase(stacks["compact"], counts_tokens=True),
        full=lambda: movement_phase(stacks["full"], counts_tokens=True),
        reference=sampling_reference,
    )
    assert full.seconds >= grpo_threshold("compact_seconds_ratio") * compact.seconds


@pytest.mark.phase5
def test_compact_prompts_raise_tokens_per_second(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, build_stack_for: BuildStack, sampling_reference: ReferenceArm
) -> None:
    """``timing/tokens_per_second`` of the first movement phase of a game: seven powers.

    With both prompts every power must give the same number of orders.
    """
    from pytest_grpo.agreement import same_tokens

    stacks = {name: build_game(build_stack_for, name, name) for name in PROMPTS}
    compact, full, _ = grpo_arms(
        agree=same_tokens,
        compact=lambda: movement_phase(stacks["compact"]),
        full=lambda: movement_phase(stacks["full"]),
        reference=sampling_reference,
    )
    assert compact.tokens_per_second >= grpo_threshold("compact_tokens_per_second_ratio") * full.tokens_per_second


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
