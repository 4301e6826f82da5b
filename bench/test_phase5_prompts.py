"""Phase 5: prompt tuning. Compact prompts give more tokens per second on movement phases."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.conftest import BuildStack
    from grpo_core.schedule.stack import Stack
    from grpo_core.types import Group, Int32
    from pytest_grpo.arms import MeasuredArm
    from pytest_grpo.thresholds import Threshold
    from pytest_grpo.types import Sample

MAX_RATIO_ERROR = 1e-3


@pytest.mark.phase5
def test_compact_prompts_raise_tokens_per_second(
    grpo_arms: Callable[..., tuple[MeasuredArm, ...]],
    grpo_threshold: Callable[[str], Threshold],
    build_stack_for: BuildStack,
) -> None:
    """``timing/tokens_per_second`` of the first movement phase of a game: seven powers.

    Both prompts must lead every power to as many orders, and the sampler's log-probabilities must be the trainer's.
    """
    from pytest_grpo.agreement import same_tokens
    from pytest_grpo.types import Sample

    stacks = {
        name: build_stack_for(
            name,
            environment={"name": "diplomacy", "compact_prompts": name == "compact"},
            rollout={"num_groups": 1, "group_size": 1},
            training={"learning_rate": 0.0, "advantages": "mean_only"},
        )
        for name in ("compact", "full")
    }
    on_policy: dict[str, bool] = {}

    def movement_phase(name: str) -> Sample:
        collector = stacks[name].collector
        episodes = collector.start(0)
        start = time.perf_counter()
        collector.play_round(episodes, 0)
        seconds = time.perf_counter() - start
        groups = collector.groups(episodes, 0)
        if name not in on_policy:
            on_policy[name] = sampler_agrees(stacks[name], groups)
        turns = {group.group_id: [turn for t in group.trajectories for turn in t.turns] for group in groups}
        orders = {key: [collector_lines(stacks[name], turn.completion_ids) for turn in of] for key, of in turns.items()}
        num_tokens = sum(len(turn.completion_ids) for of in turns.values() for turn in of)
        return Sample(seconds, {"tokens": num_tokens}, output=(orders, on_policy[name]))

    compact, full = grpo_arms(
        agree=same_tokens, compact=lambda: movement_phase("compact"), full=lambda: movement_phase("full")
    )
    assert compact.tokens_per_second >= grpo_threshold("compact_tokens_per_second_ratio") * full.tokens_per_second
    assert on_policy == {"compact": True, "full": True}, "the trainer computes other log-probabilities"


def collector_lines(stack: Stack, completion_ids: Int32) -> int:
    """The number of orders in an answer."""
    return stack.tokenizer.decode(completion_ids).count("\n")


def sampler_agrees(stack: Stack, groups: tuple[Group, ...]) -> bool:
    """Whether the trainer gives what was sampled the probabilities that the sampler gave it."""
    from grpo_core.types import Batch, RolloutStats

    metrics = stack.trainer.step(Batch(0, 0, groups, RolloutStats(1.0, 0, 0, 0, 0)))
    return abs(metrics.ratio_max - 1) < MAX_RATIO_ERROR
