"""Phase 3: trainer compute. A step is exact, makes one forward pass about as long as its backward pass, and computes
each prompt only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pytest_grpo.settings.applicability import not_applicable
from pytest_grpo.settings.config import PLUGIN_CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.settings.thresholds import Threshold
    from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings, TrainBatch, TrainGroup
    from pytest_grpo.types import Sample

    from .checks.steps import StepErrors
    from .conftest import GrpoArms, GrpoThreshold, WorkloadFor
    from .workload import Workload

NUM_PROMPTS, GROUP_SIZE, MAX_COMPLETION_TOKENS = 4, 8, 24
MICRO_BATCH_TOKENS = 64
"""Of the exact checks: some micro-batches in a step, whose gradients must add up."""


def settings_for(config: pytest.Config, home: Path, **changes: int | str) -> SystemSettings:
    """As the run trains: with its KL term, whose reference log-probabilities come with the batch."""
    from pytest_grpo.systems.load import settings_of

    run = config.stash[PLUGIN_CONFIG].run
    return settings_of(run, home, kl_coefficient=run.config().training.kl_coefficient, **changes)


@pytest.fixture
def grpo_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpoSystem]:
    """The system under test with the run's KL term."""
    from pytest_grpo.systems.load import open_system

    settings = settings_for(request.config, tmp_path_factory.mktemp("system"))
    with open_system(request.config.stash[PLUGIN_CONFIG].system, settings) as system:
        yield system


@pytest.fixture
def grpo_versus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpoSystem]:
    """The system of ``--grpo-versus``, with the same loss."""
    from pytest_grpo.systems.load import open_system

    versus = request.config.stash[PLUGIN_CONFIG].versus
    if versus is None:
        pytest.skip("nothing to compare with; name a system with --grpo-versus")
    with open_system(versus, settings_for(request.config, tmp_path_factory.mktemp("versus"))) as system:
        yield system


@pytest.fixture(scope="module")
def step_errors(
    grpo_system_name: str, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> StepErrors:
    """What two steps of the system differ by from two of ``bench.reference``."""
    from pytest_grpo.systems.load import open_system

    from .checks import steps
    from .checks.precision import needs_float32

    home = tmp_path_factory.mktemp("exact")
    settings = settings_for(pytestconfig, home, micro_batch_tokens=MICRO_BATCH_TOKENS)
    needs_float32(settings, "the reference is float64")
    with open_system(grpo_system_name, settings) as system:
        return steps.step_errors(system, settings)


def build_batch(system: GrpoSystem, workload: Workload, num_prompts: int | None = None) -> TrainBatch:
    """The opening prompts of the run, all or the first ones, each with rewards that differ between siblings."""
    from pytest_grpo.systems.protocol import TrainBatch

    prompts = [system.encode(prompt) for prompt in workload.prompts[:num_prompts]]
    rollout = system.rollout(prompts, workload.group_size, workload.max_completion_tokens, seed=0)
    rewards = [[float(place) for place in range(workload.group_size)]] * len(prompts)
    return TrainBatch.from_rollout(prompts, rollout, rewards)


def in_one_pass(batch: TrainBatch, settings: SystemSettings) -> TrainBatch:
    """As many whole groups of ``batch`` as one micro-batch holds, padding included."""
    from pytest_grpo.systems.protocol import TrainBatch

    groups = list(batch.groups)
    while padded_tokens(groups) > settings.micro_batch_tokens and len(groups) > 1:
        groups.pop()
    return TrainBatch(tuple(groups))


def padded_tokens(groups: Sequence[TrainGroup]) -> int:
    """Of one micro-batch of ``groups``: a row as long as the longest for each completion."""
    rows = [len(group.prompt_ids) + len(item.completion_ids) for group in groups for item in group.completions]
    return max(rows) * len(rows)


def run_step(system: GrpoSystem, batch: TrainBatch) -> Sample:
    """One training step: its times and counts, and what it computed."""
    from pytest_grpo.measuring.sampling.clock import now
    from pytest_grpo.types import Sample

    start = now()
    step = system.train_step(batch)
    step_ms = (now() - start) * 1e3
    passes_ms = step.loss_forward_ms + step.backward_ms
    return Sample(
        step_ms / 1e3,
        {
            "tokens": batch.num_loss_tokens,  # not the system's own count: rates are made of it
            "loss_forward_ms": step.loss_forward_ms,
            "backward_ms": step.backward_ms,
            "step_ms": step_ms,
            "outside_passes_ms": max(step_ms - passes_ms, 1e-6),
            "unaccounted_ms": max(step_ms - passes_ms - step.other_ms, 1e-6),
            "num_forward_passes": step.num_forward_passes,
            "num_micro_batches": step.num_micro_batches,
            "num_tokenizer_calls": step.num_tokenizer_calls,
        },
        output=[[step.loss], [step.grad_norm], *(values.tolist() for values in step.logprobs)],
    )


@pytest.mark.phase3
def test_every_chosen_token_has_its_loss(
    grpo_gate: Gate, grpo_system: GrpoSystem, step_errors: StepErrors, workload_for: WorkloadFor
) -> None:
    """By how much each token counts in the gradient, and the system's own count. Nothing here forces a token: all that
    is sampled was chosen."""
    sampled = build_batch(grpo_system, workload_for(1, GROUP_SIZE, MAX_COMPLETION_TOKENS), 1)
    not_chosen = sum(int((~completion.completion_mask).sum()) for completion in sampled.completions)
    num_wrong = not_chosen + step_errors.num_lost_tokens + step_errors.num_miscounted_tokens
    grpo_gate.check("tokens_without_loss", num_wrong)


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
    grpo_gate: Gate,
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    grpo_system: GrpoSystem,
    workload_for: WorkloadFor,
    pytestconfig: pytest.Config,
    tmp_path: Path,
) -> None:
    """On compact prompts, as the acceptance plan says: there the matrix products dominate, not attention. Where all
    weights are trained, the backward pass computes their gradients, too: about two forward passes.

    Passes through a decoder are counted at the system's modules and in torch itself, by whichever model they are.
    """
    from pytest_grpo.agreement import nothing_to_check
    from pytest_grpo.arms import approx_ratio
    from pytest_grpo.systems.counting.call_counter import CallCounter

    from .plain import reference_step, vocab_size

    settings = settings_for(pytestconfig, tmp_path)
    workload = workload_for(NUM_PROMPTS, GROUP_SIZE, MAX_COMPLETION_TOKENS)
    batch = in_one_pass(build_batch(grpo_system, workload), settings)
    with CallCounter(grpo_system, vocab_size(settings.model)) as counter:
        step = grpo_system.train_step(batch)
    calls, passes = counter.tokenizer_calls(step.num_tokenizer_calls), counter.forward_passes(step.num_forward_passes)
    fits = padded_tokens(batch.groups) <= settings.micro_batch_tokens
    num_micro_batches = 1 if fits else step.num_micro_batches
    grpo_gate.check("tokenizer_calls", calls.value, note=calls.note)
    grpo_gate.check("forward_passes_per_micro_batch", passes.value / max(1, num_micro_batches), note=passes.note)
    # One arm alone: the exact checks above and the padded rows below say whether it computes the right thing.
    step, _ = grpo_arms(
        agree=nothing_to_check,
        step=lambda: run_step(grpo_system, batch),
        reference=reference_step(),
    )
    name = "forward_over_backward_full" if settings.method == "full" else "forward_over_backward"
    assert step.loss_forward_ms == approx_ratio(step.backward_ms, within=grpo_threshold(name))


@pytest.mark.phase3
def test_the_time_of_a_step_is_accounted_for(
    grpo_arms: GrpoArms, grpo_threshold: GrpoThreshold, grpo_system: GrpoSystem, workload_for: WorkloadFor
) -> None:
    """By the clock around a step, less the parts that the system times. Most of it are the two passes: a step could
    do anything else in a part that it times."""
    from pytest_grpo.agreement import nothing_to_check

    from .plain import reference_step

    batch = build_batch(grpo_system, workload_for(NUM_PROMPTS, GROUP_SIZE, MAX_COMPLETION_TOKENS))
    step, _ = grpo_arms(
        agree=nothing_to_check,
        step=lambda: run_step(grpo_system, batch),
        reference=reference_step(),
    )
    assert step.unaccounted_ms <= grpo_threshold("unaccounted_share") * step.step_ms
    assert step.outside_passes_ms <= grpo_threshold("outside_passes_share") * step.step_ms


@pytest.mark.phase3
def test_a_shared_prefix_beats_padding(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    grpo_system: GrpoSystem,
    workload_for: WorkloadFor,
    pytestconfig: pytest.Config,
    tmp_path: Path,
) -> None:
    """A step on one group, against the system's own plain path: a row per completion, its prompt in each of them."""
    from pytest_grpo.systems.load import open_system

    from .checks.precision import close_steps
    from .plain import reference_step

    threshold, name = grpo_threshold("shared_prefix_speedup"), pytestconfig.stash[PLUGIN_CONFIG].system
    batch = build_batch(grpo_system, workload_for(1, GROUP_SIZE, MAX_COMPLETION_TOKENS), 1)
    settings = settings_for(pytestconfig, tmp_path, packing="padded")
    needs_a_long_prompt(batch, threshold, settings.model)
    with ExitStack() as opened:
        fast = grpo_system
        if name != "grpo_core":  # which shares by default
            sharing = settings_for(pytestconfig, tmp_path / "fast", packing="shared_prefix")
            fast = opened.enter_context(open_system(name, sharing))
        plain = opened.enter_context(open_system(name, settings))
        plain.load_weights(fast.weights())
        shared, padded, _ = grpo_arms(
            agree=close_steps(settings, fast.logprob_tolerance),
            shared=lambda: run_step(fast, batch),
            padded=lambda: run_step(plain, batch),
            reference=reference_step(),
        )
        assert shared.tokens_per_second >= threshold * padded.tokens_per_second


def needs_a_long_prompt(batch: TrainBatch, threshold: Threshold, model: str) -> None:
    """Leave the test where even a free prompt could not reach the threshold: the operations of the padded rows over
    those of a prompt that is computed once. The head computes the tokens of the answers only, on both sides."""
    from .checks.own_run import num_layer_and_head_weights

    (group,) = batch.groups
    num_prompt_tokens, num_answers = len(group.prompt_ids), len(group.completions)
    num_tokens = sum(len(completion.completion_ids) for completion in group.completions)
    in_layers, in_head = num_layer_and_head_weights(model)
    padded = (num_answers * num_prompt_tokens + num_tokens) * in_layers + num_tokens * in_head
    gain = padded / ((num_prompt_tokens + num_tokens) * in_layers + num_tokens * in_head)
    if gain < threshold.low:
        not_applicable(
            f"a prompt of {num_prompt_tokens} tokens before {num_answers} answers of {num_tokens / num_answers:.0f} "
            f"saves a factor of {gain:.2f} at most, as {in_head / (in_layers + in_head):.0%} of the weights are the "
            f"head, and the threshold is {threshold}"
        )


@pytest.mark.phase3
def test_a_step_against_another_system(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    grpo_system: GrpoSystem,
    grpo_versus: GrpoSystem,
    workload_for: WorkloadFor,
    pytestconfig: pytest.Config,
    tmp_path: Path,
) -> None:
    """The same tensors and adapter weights through a step of the system and of the one of ``--grpo-versus``."""
    from .checks.precision import close_steps
    from .plain import reference_step

    batch = build_batch(grpo_system, workload_for(1, GROUP_SIZE, MAX_COMPLETION_TOKENS), 1)
    grpo_versus.load_weights(grpo_system.weights())
    tolerance = max(grpo_system.logprob_tolerance, grpo_versus.logprob_tolerance)
    mine, other, _ = grpo_arms(
        agree=close_steps(settings_for(pytestconfig, tmp_path), tolerance),
        **{
            grpo_system.name: lambda: run_step(grpo_system, batch),
            grpo_versus.name: lambda: run_step(grpo_versus, batch),
        },
        reference=reference_step(),
    )
    assert mine.tokens_per_second >= grpo_threshold("versus_step_speedup") * other.tokens_per_second
