"""Phase 3: trainer compute. One forward pass, about as long as the backward pass, and each prompt only once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.conftest import BuildStack
    from grpo_core.schedule.stack import Stack
    from grpo_core.types import Batch
    from pytest_grpo.gates import Gate
    from pytest_grpo.measure import Sample

GROUP_SIZE = 8
NUM_STEPS = 5


def build_diplomacy(build_stack_for: BuildStack, *, compact_prompts: bool) -> Stack:
    return build_stack_for(
        "trainer",
        environment={"name": "diplomacy", "compact_prompts": compact_prompts},
        rollout={"num_groups": 1, "group_size": GROUP_SIZE},
        training={"learning_rate": 0.0},
    )


def first_round(stack: Stack, num_groups: int) -> Batch:
    """The opening move of ``num_groups`` powers, each with rewards that differ between siblings."""
    from grpo_core.types import Batch, RolloutStats

    episodes = stack.collector.start(0)
    stack.collector.play_round(episodes, 0)
    groups = [
        replace(
            group,
            trajectories=tuple(
                replace(trajectory, reward=float(place)) for place, trajectory in enumerate(group.trajectories)
            ),
        )
        for group in stack.collector.groups(episodes, 0)[:num_groups]
    ]
    return Batch(0, 0, tuple(groups), RolloutStats(1.0, 0, 0, 0, 0))


@pytest.mark.phase3
def test_forward_takes_about_as_long_as_backward(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    """On compact prompts, as the acceptance plan says: there the matrix products dominate, not attention."""
    stack = build_diplomacy(build_stack_for, compact_prompts=True)
    batch = first_round(stack, num_groups=7)
    trainer = stack.trainer
    trainer.step(batch)
    steps = [trainer.step(batch) for _ in range(NUM_STEPS)]
    grpo_gate.check("tokenizer_calls", sum(step.num_tokenizer_calls for step in steps))
    grpo_gate.check(
        "forward_passes_per_micro_batch",
        sum(step.num_forward_passes for step in steps) / sum(step.num_micro_batches for step in steps),
    )
    grpo_gate.estimate("forward_over_backward", [step.loss_forward_ms / step.backward_ms for step in steps])


@pytest.mark.phase3
def test_a_shared_prefix_beats_padding(grpo_gate: Gate, build_stack_for: BuildStack) -> None:
    """Forward and backward of one group: its prompt once, against once per completion. Both give the same loss."""
    from grpo_core.config import TrainingConfig
    from grpo_core.model import load_policy
    from grpo_core.training.trainer import Trainer
    from pytest_grpo.measure import Sample

    stack = build_diplomacy(build_stack_for, compact_prompts=False)
    batch = first_round(stack, num_groups=1)
    config = stack.config
    trainers = {
        packing: Trainer(
            load_policy(config.model), config.model, TrainingConfig(learning_rate=0.0, packing=packing), run="packing"
        )
        for packing in ("shared_prefix", "padded")
    }
    gradients: dict[str, float] = {}

    def step(packing: str) -> Sample:
        metrics = trainers[packing].step(batch)
        gradients[packing] = metrics.grad_norm
        return Sample(metrics.num_loss_tokens, (metrics.loss_forward_ms + metrics.backward_ms) / 1e3)

    grpo_gate.speedup("shared_prefix_speedup", fast=lambda: step("shared_prefix"), slow=lambda: step("padded"), pairs=4)
    assert gradients["shared_prefix"] == pytest.approx(gradients["padded"], rel=1e-3), "both paths must agree"
