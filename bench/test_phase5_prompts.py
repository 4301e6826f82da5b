"""Phase 5: prompt tuning. Compact prompts give more tokens per second on movement phases."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.conftest import BuildStack, GrpoArms, GrpoThreshold
    from grpo_core.schedule.stack import LocalStack
    from grpo_core.types import Int32
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.types import Sample

PROMPTS = ("compact", "full")


@pytest.mark.phase5
def test_compact_prompts_raise_tokens_per_second(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    build_stack_for: BuildStack,
) -> None:
    """``timing/tokens_per_second`` of the first movement phase of a game: seven powers.

    With both prompts every power must give the same number of orders.
    """
    from pytest_grpo.agreement import same_tokens
    from pytest_grpo.types import Sample

    stacks = {name: build_game(build_stack_for, name) for name in PROMPTS}

    def movement_phase(name: str) -> Sample:
        collector = stacks[name].collector
        episodes = collector.start(0)
        stacks[name].engine.forget_prompts()  # while training, every batch is the first one of its policy version
        start = time.perf_counter()
        collector.play_round(episodes, 0)
        seconds = time.perf_counter() - start
        groups = collector.groups(episodes, 0)
        turns = {group.group_id: [turn for t in group.trajectories for turn in t.turns] for group in groups}
        orders = {key: [num_orders(stacks[name], turn.completion_ids) for turn in of] for key, of in turns.items()}
        num_tokens = sum(len(turn.completion_ids) for of in turns.values() for turn in of)
        return Sample(seconds, {"tokens": num_tokens}, output=orders)

    compact, full = grpo_arms(
        agree=same_tokens, compact=lambda: movement_phase("compact"), full=lambda: movement_phase("full")
    )
    assert compact.tokens_per_second >= grpo_threshold("compact_tokens_per_second_ratio") * full.tokens_per_second


@pytest.mark.phase5
def test_the_trainer_gives_the_samplers_probabilities(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    """Samples from either prompt have the same probability in training: the on-policy ratio is 1."""
    from grpo_core.types import Batch, RolloutStats

    ratios: list[float] = []
    for name in PROMPTS:
        stack = build_game(build_stack_for, name)
        episodes = stack.collector.start(0)
        stack.collector.play_round(episodes, 0)
        batch = Batch(0, 0, stack.collector.groups(episodes, 0), RolloutStats(1.0, 0, 0, 0, 0))
        ratios.append(stack.trainer.step(batch).ratio_max)
    grpo_gate.check("sampler_ratio_error", max(abs(ratio - 1) for ratio in ratios))


def build_game(build_stack_for: BuildStack, name: str) -> LocalStack:
    """One game, with ``compact`` or ``full`` prompts, that trains on nothing."""
    return build_stack_for(
        name,
        environment={"name": "diplomacy", "compact_prompts": name == "compact"},
        rollout={"num_groups": 1, "group_size": 1},
        training={"learning_rate": 0.0, "advantages": "mean_only"},
    )


def num_orders(stack: LocalStack, completion_ids: Int32) -> int:
    """The number of orders in an answer."""
    return stack.tokenizer.decode(completion_ids).count("\n")
