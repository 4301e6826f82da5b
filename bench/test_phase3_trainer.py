"""Phase 3: trainer compute. One forward pass, about as long as the backward pass, and each prompt only once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.conftest import movement_prompts

if TYPE_CHECKING:
    from pathlib import Path

    from bench.conftest import GrpoArms, GrpoThreshold
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem, TrainBatch
    from pytest_grpo.types import Sample

GROUP_SIZE = 8
MAX_COMPLETION_TOKENS = 24


def build_batch(system: GrpoSystem, num_prompts: int, *, compact: bool) -> TrainBatch:
    """The opening moves of ``num_prompts`` powers, each with rewards that differ between siblings."""
    from pytest_grpo.systems.protocol import TrainBatch

    prompts = [system.encode(prompt) for prompt in movement_prompts(compact=compact)[:num_prompts]]
    rollout = system.rollout(prompts, GROUP_SIZE, MAX_COMPLETION_TOKENS, seed=0)
    return TrainBatch.from_rollout(prompts, rollout, [[float(place) for place in range(GROUP_SIZE)]] * num_prompts)


def run_step(system: GrpoSystem, batch: TrainBatch) -> Sample:
    """One training step: its times and counts, and what it computed."""
    from pytest_grpo.types import Sample

    step = system.train_step(batch)
    return Sample(
        (step.loss_forward_ms + step.backward_ms) / 1e3,
        {
            "tokens": step.num_loss_tokens,
            "loss_forward_ms": step.loss_forward_ms,
            "backward_ms": step.backward_ms,
            "num_forward_passes": step.num_forward_passes,
            "num_micro_batches": step.num_micro_batches,
            "num_tokenizer_calls": step.num_tokenizer_calls,
        },
        output=[[step.loss], [step.grad_norm], *(values.tolist() for values in step.logprobs)],
    )


@pytest.mark.phase3
def test_forward_takes_about_as_long_as_backward(
    grpo_gate: Gate, grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem
) -> None:
    """On compact prompts, as the acceptance plan says: there the matrix products dominate, not attention."""
    from pytest_grpo.agreement import nothing_to_check
    from pytest_grpo.arms import approx_ratio

    batch = build_batch(grpo_system, num_prompts=4, compact=True)
    # One arm alone: the counts below and the padded reference of the next test say whether it computes the right thing.
    (step,) = grpo_arms(agree=nothing_to_check, step=lambda: run_step(grpo_system, batch))
    once = grpo_system.train_step(batch)
    grpo_gate.check("tokenizer_calls", once.num_tokenizer_calls)
    grpo_gate.check("forward_passes_per_micro_batch", once.num_forward_passes / once.num_micro_batches)
    assert step.loss_forward_ms == approx_ratio(step.backward_ms, within=grpo_threshold("forward_over_backward"))


@pytest.mark.phase3
def test_a_shared_prefix_beats_padding(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem, tmp_path: Path
) -> None:
    """Forward and backward of one group, against the plain path: a row per completion, its prompt in each of them."""
    from pytest_grpo.agreement import close_values
    from pytest_grpo.systems.load import load_system
    from pytest_grpo.systems.protocol import SystemSettings

    batch = build_batch(grpo_system, num_prompts=1, compact=True)
    plain = load_system("grpo_core", SystemSettings(home=tmp_path, packing="padded"))
    plain.load_weights(grpo_system.weights())
    shared, padded = grpo_arms(
        agree=close_values(rtol=1e-3, atol=1e-4),
        shared=lambda: run_step(grpo_system, batch),
        padded=lambda: run_step(plain, batch),
    )
    assert shared.tokens_per_second >= grpo_threshold("shared_prefix_speedup") * padded.tokens_per_second


@pytest.mark.phase3
def test_a_step_against_another_system(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem, grpo_versus: GrpoSystem
) -> None:
    """The same tensors and adapter weights through a step of the system and of the one of ``--grpo-versus``."""
    from pytest_grpo.agreement import close_values

    batch = build_batch(grpo_system, num_prompts=1, compact=True)
    grpo_versus.load_weights(grpo_system.weights())
    mine, other = grpo_arms(
        agree=close_values(rtol=1e-3, atol=1e-4),
        **{
            grpo_system.name: lambda: run_step(grpo_system, batch),
            grpo_versus.name: lambda: run_step(grpo_versus, batch),
        },
    )
    assert mine.tokens_per_second >= grpo_threshold("versus_step_speedup") * other.tokens_per_second
