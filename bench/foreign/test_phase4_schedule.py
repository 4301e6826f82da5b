"""Phase 4 of any system: nothing that was sampled is lost, no batch is too old, sampling overlaps with training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings
    from pytest_grpo.types import Sample

    from ..conftest import GrpoArms, GrpoThreshold, ReferenceArm
    from .conftest import BuildSystem, PlanFor

NUM_STEPS = 10
NUM_STEPS_IN_TURNS = 3
BUFFER_DEPTH = 3
MAX_POLICY_LAG_STEPS = 3
NUM_OVERLAP_STEPS = 4
MAX_CORES_OF_OTHERS = 0.2


@pytest.mark.phase4
@pytest.mark.instead_of("test_siblings_differ")
def test_siblings_of_the_system_differ(grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor) -> None:
    from ..checks.system_samples import num_identical_siblings, sample

    grpo_gate.check("identical_siblings", num_identical_siblings(sample(grpo_system, plan_for(max_tokens=24))))


@pytest.mark.phase4
@pytest.mark.instead_of("test_every_episode_is_in_a_batch_or_reported")
def test_every_episode_of_the_system_is_in_a_batch(grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor) -> None:
    """Each step trains on as many episodes of each prompt as it should, with the rewards that they earned."""
    from ..checks.system_runs import num_episodes_missing
    from ..checks.watched_run import watch_run

    run = watch_run(grpo_system, NUM_STEPS_IN_TURNS, plan_for())
    grpo_gate.check("episodes_missing", num_episodes_missing(run))


@pytest.mark.phase4
def test_every_episode_of_several_turns_is_in_a_batch(
    grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor
) -> None:
    """The same with two answers per episode, the second one to a prompt with all that was said."""
    from ..checks.system_runs import num_episodes_missing, num_turns_missing
    from ..checks.watched_run import watch_run

    run = watch_run(grpo_system, NUM_STEPS_IN_TURNS, plan_for(reply=lambda prompt, answers: answer_once(answers)))
    grpo_gate.check("episodes_missing", num_episodes_missing(run) + num_turns_missing(run, num_turns=2))


def answer_once(answers: Sequence[str]) -> str | None:
    """What follows the first answer; nothing follows the second."""
    return "\nAnd then?" if len(answers) == 1 else None


@pytest.mark.phase4
@pytest.mark.instead_of("test_what_was_sampled_is_trained_on")
def test_what_the_system_sampled_is_trained_on(
    grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor, settings: SystemSettings
) -> None:
    """Per completion, the tokens with a loss are the ones that were drawn, to the last one."""
    from grpo_core.model.tokenizer import load_tokenizer

    from ..checks.system_samples import num_wrong_lengths, sample_batch

    plan = plan_for()
    batch = sample_batch(grpo_system, plan)
    step = grpo_system.train_step(batch)
    stop_id = load_tokenizer(settings.model).stop_id
    grpo_gate.check("lengths_wrong", num_wrong_lengths(batch, step, max_tokens=plan.max_tokens, stop_id=stop_id))


@pytest.mark.phase4
def test_each_step_of_the_system_is_on_policy(grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor) -> None:
    """Where sampling and training take turns, there is no lag: the order of events has none, whatever is told."""
    from ..checks.system_runs import lag_over_budget, num_steps_missing
    from ..checks.watched_run import watch_run

    run = watch_run(grpo_system, NUM_STEPS_IN_TURNS, plan_for())
    grpo_gate.check("policy_lag_steps_over_budget", lag_over_budget(run))
    grpo_gate.check("steps_missing", num_steps_missing(run))


@pytest.mark.phase4
@pytest.mark.instead_of("test_lag_and_depth_stay_where_they_were_set")
def test_lag_and_depth_of_the_system_stay_where_they_were_set(
    grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor
) -> None:
    """In a run that may sample ahead, within its lag budget."""
    from ..checks.system_runs import depth_error, lag_over_budget, num_steps_missing
    from ..checks.watched_run import watch_run

    plan = plan_for(max_policy_lag_steps=MAX_POLICY_LAG_STEPS, buffer_depth=BUFFER_DEPTH)
    run = watch_run(grpo_system, NUM_STEPS, plan)
    grpo_gate.check("policy_lag_steps_over_budget", lag_over_budget(run))
    grpo_gate.check("buffer_depth_error", depth_error(run))
    grpo_gate.check("steps_missing", num_steps_missing(run))


@pytest.mark.phase4
@pytest.mark.instead_of("test_whole_steps_report")
def test_whole_steps_of_the_system_report(
    grpo_arms: GrpoArms,
    grpo_system: GrpoSystem,
    plan_for: PlanFor,
    sampling_reference: ReferenceArm,
    tmp_path: Path,
) -> None:
    """Whole steps with the run's own prompts: what a comparison of two versions or settings measures last of all."""
    from pytest_grpo.agreement import nothing_to_check
    from pytest_grpo.measuring.sampling.clock import now
    from pytest_grpo.types import Sample

    from ..checks.watched_run import repeated_steps

    whole = repeated_steps(grpo_system, NUM_OVERLAP_STEPS, plan_for(), tmp_path / "state")

    def run() -> Sample:
        whole.rewind()
        start = now()
        records = whole.run()
        seconds = now() - start
        counts = {"num_steps": NUM_OVERLAP_STEPS, "num_steps_reported": len(records)}
        return Sample(seconds, {"tokens": sum(record.num_loss_tokens for record in records), **counts})

    steps, _ = grpo_arms(agree=nothing_to_check, steps=run, reference=sampling_reference)
    assert steps.num_steps_reported == NUM_OVERLAP_STEPS
    steps.seconds.report()


@pytest.mark.phase4
@pytest.mark.instead_of("test_overlap_hides_the_faster_side")
@pytest.mark.usefixtures("grpo_system")  # the rows are about it
def test_overlap_of_the_system_hides_the_faster_side(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    build_system: BuildSystem,
    plan_for: PlanFor,
    is_embedded: bool,
    sampling_reference: ReferenceArm,
    tmp_path: Path,
) -> None:
    """Time per step when both sides run at once, over the slower side alone. Each side has one core in both runs."""
    import torch

    from pytest_grpo.agreement import close_values
    from pytest_grpo.settings.applicability import not_applicable
    from pytest_grpo.types import Sample

    from ..checks.system_runs import seconds_of_the_slower_side, seconds_per_step
    from ..checks.watched_run import repeated_steps

    if (os.cpu_count() or 1) < 2:
        not_applicable("rollouts and training would share the only core")
    # Of the tiny one, Python takes so much that the sides wait for each other's interpreter.
    system = build_system(model="small") if is_embedded else build_system()
    steps = repeated_steps(system, NUM_OVERLAP_STEPS, plan_for(max_policy_lag_steps=1), tmp_path / "state")

    def run(max_policy_lag_steps: int) -> Sample:
        steps.rewind()
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            records = steps.run(max_policy_lag_steps=max_policy_lag_steps)
        finally:
            torch.set_num_threads(num_threads)
        seconds = seconds_per_step(records) if max_policy_lag_steps else seconds_of_the_slower_side(records)
        return Sample(seconds, output=[[record.reward_mean, record.loss] for record in records])

    overlapped, slower_side, _ = grpo_arms(
        agree=close_values(rtol=1e-3, atol=1e-4 + system.logprob_tolerance),
        max_cores_of_others=MAX_CORES_OF_OTHERS,
        overlapped=lambda: run(1),
        slower_side=lambda: run(0),
        reference=sampling_reference,
    )
    assert overlapped.seconds <= grpo_threshold("overlapped_over_slower_side") * slower_side.seconds
