"""Phase 5: prompt tuning. Compact prompts give more tokens per second on movement phases."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.conftest import BuildStack
    from pytest_grpo.gates import Gate
    from pytest_grpo.measure import Sample


@pytest.mark.phase5
def test_compact_prompts_raise_tokens_per_second(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    """``timing/tokens_per_second`` of the first movement phase: seven powers, two games."""
    from pytest_grpo.measure import Sample

    stacks = {
        name: build_stack_for(
            name,
            environment={"name": "diplomacy", "compact_prompts": name == "compact"},
            rollout={"num_groups": 1, "group_size": 2},
        )
        for name in ("compact", "full")
    }

    def movement_phase(name: str) -> Sample:
        collector = stacks[name].collector
        episodes = collector.start(0)
        start = time.perf_counter()
        collector.play_round(episodes, 0)
        seconds = time.perf_counter() - start
        turns = [turn for group in collector.groups(episodes, 0) for t in group.trajectories for turn in t.turns]
        return Sample(sum(len(turn.completion_ids) for turn in turns), seconds)

    grpo_gate.speedup(
        "compact_tokens_per_second_ratio", fast=lambda: movement_phase("compact"), slow=lambda: movement_phase("full")
    )
