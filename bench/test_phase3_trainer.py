"""Phase 3: trainer compute. A step is exact, makes one forward pass about as long as its backward pass, and computes
each prompt only once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_grpo.settings.config import PLUGIN_CONFIG

from .conftest import movement_prompts

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings, TrainBatch
    from pytest_grpo.types import Sample

    from .checks.steps import StepErrors
    from .conftest import GrpoArms, GrpoThreshold

GROUP_SIZE = 8
MAX_COMPLETION_TOKENS = 24
MICRO_BATCH_TOKENS = 64
"""Of the exact checks: some micro-batches in a step, whose gradients must add up."""


def settings_for(home: Path, **changes: int | str) -> SystemSettings:
    """As a run trains by default: with a KL term, whose reference log-probabilities come with the batch."""
    from grpo_core.config import TrainingConfig
    from pytest_grpo.systems.protocol import SystemSettings

    return SystemSettings(home=home, kl_coefficient=TrainingConfig().kl_coefficient, **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def grpo_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GrpoSystem:
    """The system under test with the default KL term."""
    from pytest_grpo.systems.load import load_system

    return load_system(request.config.stash[PLUGIN_CONFIG].system, settings_for(tmp_path_factory.mktemp("system")))


@pytest.fixture
def grpo_versus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GrpoSystem:
    """The system of ``--grpo-versus``, with the same loss."""
    from pytest_grpo.systems.load import load_system

    versus = request.config.stash[PLUGIN_CONFIG].versus
    if versus is None:
        pytest.skip("nothing to compare with; name a system with --grpo-versus")
    return load_system(versus, settings_for(tmp_path_factory.mktemp("versus")))


@pytest.fixture(scope="module")
def step_errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StepErrors:
    """What two steps of the system differ by from two of ``bench.reference``."""
    from pytest_grpo.systems.load import load_system

    from .checks import steps

    settings = settings_for(tmp_path_factory.mktemp("exact"), micro_batch_tokens=MICRO_BATCH_TOKENS)
    system = load_system(request.config.stash[PLUGIN_CONFIG].system, settings)
    return steps.step_errors(system, settings)


def build_batch(system: GrpoSystem, num_prompts: int, *, compact: bool) -> TrainBatch:
    """The opening moves of ``num_prompts`` powers, each with rewards that differ between siblings."""
    from pytest_grpo.systems.protocol import TrainBatch

    prompts = [system.encode(prompt) for prompt in movement_prompts(compact=compact)[:num_prompts]]
    rollout = system.rollout(prompts, GROUP_SIZE, MAX_COMPLETION_TOKENS, seed=0)
    return TrainBatch.from_rollout(prompts, rollout, [[float(place) for place in range(GROUP_SIZE)]] * num_prompts)


def run_step(system: GrpoSystem, batch: TrainBatch) -> Sample:
    """One training step: its times and counts, and what it computed."""
    from pytest_grpo.measuring.clock import now
    from pytest_grpo.types import Sample

    start = now()
    step = system.train_step(batch)
    step_ms = (now() - start) * 1e3
    timed_ms = step.loss_forward_ms + step.backward_ms + step.other_ms
    return Sample(
        step_ms / 1e3,
        {
            "tokens": step.num_loss_tokens,
            "loss_forward_ms": step.loss_forward_ms,
            "backward_ms": step.backward_ms,
            "step_ms": step_ms,
            "unaccounted_ms": max(step_ms - timed_ms, 1e-6),
            "num_forward_passes": step.num_forward_passes,
            "num_micro_batches": step.num_micro_batches,
            "num_tokenizer_calls": step.num_tokenizer_calls,
        },
        output=[[step.loss], [step.grad_norm], *(values.tolist() for values in step.logprobs)],
    )


@pytest.mark.phase3
def test_every_chosen_token_has_its_loss(grpo_gate: Gate, grpo_system: GrpoSystem, step_errors: StepErrors) -> None:
    """By how much each token counts in the gradient. Nothing here forces a token: all that is sampled was chosen."""
    sampled = build_batch(grpo_system, num_prompts=1, compact=True)
    not_chosen = sum(int((~completion.completion_mask).sum()) for completion in sampled.completions)
    grpo_gate.check("tokens_without_loss", not_chosen + step_errors.num_lost_tokens)


@pytest.mark.phase3
def test_the_loss_is_that_of_the_reference(grpo_gate: Gate, step_errors: StepErrors) -> None:
    grpo_gate.check("loss_error", step_errors.loss)


@pytest.mark.phase3
def test_the_gradient_is_that_of_the_reference(grpo_gate: Gate, step_errors: StepErrors) -> None:
    """Adam hides the scale of a gradient, and so does clipping. So the gradient itself is compared, and its norm."""
    grpo_gate.check("gradient_error", step_errors.gradient)


@pytest.mark.phase3
def test_the_weights_move_as_by_the_reference(grpo_gate: Gate, step_errors: StepErrors) -> None:
    grpo_gate.check("weights_update_error", step_errors.weights)


@pytest.mark.phase3
def test_forward_takes_about_as_long_as_backward(
    grpo_gate: Gate, grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem, tmp_path: Path
) -> None:
    """On compact prompts, as the acceptance plan says: there the matrix products dominate, not attention.

    Passes through a decoder are counted by the system and in torch itself, by whichever model they are.
    """
    from pytest_grpo.agreement import nothing_to_check
    from pytest_grpo.arms import approx_ratio

    from .checks.steps import count_passes
    from .plain import reference_step

    batch, settings = build_batch(grpo_system, num_prompts=4, compact=True), settings_for(tmp_path)
    longest = max(len(group.prompt_ids) for group in batch.groups) + MAX_COMPLETION_TOKENS
    assert longest * len(batch.completions) <= settings.micro_batch_tokens, "one micro-batch holds it, padding included"
    step, num_passes = count_passes(settings, lambda: grpo_system.train_step(batch))
    grpo_gate.check("tokenizer_calls", step.num_tokenizer_calls)
    grpo_gate.check("forward_passes_per_micro_batch", max(num_passes, step.num_forward_passes))
    # One arm alone: the exact checks above and the padded rows below say whether it computes the right thing.
    step, _ = grpo_arms(
        agree=nothing_to_check,
        step=lambda: run_step(grpo_system, batch),
        reference=reference_step(settings, grpo_system, batch),
    )
    assert step.loss_forward_ms == approx_ratio(step.backward_ms, within=grpo_threshold("forward_over_backward"))


@pytest.mark.phase3
def test_the_time_of_a_step_is_accounted_for(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem, tmp_path: Path
) -> None:
    """By the clock around a step, less the parts that the system times."""
    from pytest_grpo.agreement import nothing_to_check

    from .plain import reference_step

    batch = build_batch(grpo_system, num_prompts=4, compact=True)
    step, _ = grpo_arms(
        agree=nothing_to_check,
        step=lambda: run_step(grpo_system, batch),
        reference=reference_step(settings_for(tmp_path), grpo_system, batch),
    )
    assert step.unaccounted_ms <= grpo_threshold("unaccounted_share") * step.step_ms


@pytest.mark.phase3
def test_a_shared_prefix_beats_padding(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem, tmp_path: Path
) -> None:
    """A step on one group, against the plain path: a row per completion, its prompt in each of them."""
    from pytest_grpo.agreement import close_values
    from pytest_grpo.systems.load import load_system

    from .plain import reference_step

    batch, settings = build_batch(grpo_system, num_prompts=1, compact=True), settings_for(tmp_path, packing="padded")
    plain = load_system("grpo_core", settings)
    plain.load_weights(grpo_system.weights())
    shared, padded, _ = grpo_arms(
        agree=close_values(rtol=1e-3, atol=1e-4),
        shared=lambda: run_step(grpo_system, batch),
        padded=lambda: run_step(plain, batch),
        reference=reference_step(settings, grpo_system, batch),
    )
    assert shared.tokens_per_second >= grpo_threshold("shared_prefix_speedup") * padded.tokens_per_second


@pytest.mark.phase3
def test_a_step_against_another_system(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem, grpo_versus: GrpoSystem, tmp_path: Path
) -> None:
    """The same tensors and adapter weights through a step of the system and of the one of ``--grpo-versus``."""
    from pytest_grpo.agreement import close_values

    from .plain import reference_step

    batch = build_batch(grpo_system, num_prompts=1, compact=True)
    grpo_versus.load_weights(grpo_system.weights())
    mine, other, _ = grpo_arms(
        agree=close_values(rtol=1e-3, atol=1e-4),
        **{
            grpo_system.name: lambda: run_step(grpo_system, batch),
            grpo_versus.name: lambda: run_step(grpo_versus, batch),
        },
        reference=reference_step(settings_for(tmp_path), grpo_system, batch),
    )
    assert mine.tokens_per_second >= grpo_threshold("versus_step_speedup") * other.tokens_per_second
