"""Phase 1 of any system: its events hold what its steps were, its state is enough to go on, its telemetry is cheap."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem
    from pytest_grpo.types import Sample

    from ..conftest import GrpoArms, GrpoThreshold, ReferenceArm
    from .conftest import BuildSystem, PlanFor

NUM_STEPS = 4
NUM_STEPS_AFTER_RESTART = 2
LEARNING_RATE = 1e-3


@pytest.mark.phase1
@pytest.mark.instead_of("test_no_event_is_lost")
def test_no_event_of_the_system_is_lost(
    grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor, tmp_path: Path
) -> None:
    from ..checks.system_runs import num_events_lost, read_events
    from ..checks.watched_run import watch_run

    file = tmp_path / "events.jsonl"
    with grpo_system.events(file):
        run = watch_run(grpo_system, NUM_STEPS, plan_for())
    grpo_gate.check("events_lost", num_events_lost(run, read_events(file)))


@pytest.mark.phase1
@pytest.mark.instead_of("test_events_hold_what_the_step_returned")
def test_events_hold_what_the_steps_were(
    grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor, tmp_path: Path
) -> None:
    """Each field is what the step's record says, and a record says nothing that was seen to be otherwise."""
    from ..checks.system_runs import num_wrong_events, num_wrong_records, read_events
    from ..checks.watched_run import watch_run

    file = tmp_path / "events.jsonl"
    with grpo_system.events(file):
        run = watch_run(grpo_system, NUM_STEPS, plan_for(learning_rate=LEARNING_RATE))
    num_wrong = num_wrong_events(run, read_events(file)) + num_wrong_records(run, grpo_system)
    grpo_gate.check("event_values_wrong", num_wrong)


@pytest.mark.phase1
@pytest.mark.instead_of("test_a_snapshot_is_persisted")
def test_a_state_is_persisted(
    grpo_gate: Gate, grpo_system: GrpoSystem, build_system: BuildSystem, plan_for: PlanFor, tmp_path: Path
) -> None:
    """Another system that takes it up has the same weights, bit for bit."""
    grpo_system.run(1, plan_for(learning_rate=LEARNING_RATE))
    grpo_system.save_state(tmp_path)
    other = build_system()
    other.load_state(tmp_path)
    expected, found = grpo_system.weights(), other.weights()
    is_same = expected.keys() == found.keys() and all((found[name] == expected[name]).all() for name in expected)
    grpo_gate.check("snapshot_persisted", int(is_same))


@pytest.mark.phase1
@pytest.mark.instead_of("test_a_snapshot_holds_every_value")
def test_a_state_holds_all_that_a_run_goes_on_from(
    grpo_gate: Gate, grpo_system: GrpoSystem, build_system: BuildSystem, plan_for: PlanFor, tmp_path: Path
) -> None:
    """The steps after a restart are those of the run that went on: the optimizer, the seeds and the counters, too."""
    from pytest_grpo.settings.applicability import not_applicable

    from ..checks.system_runs import num_wrong_after_restart
    from ..checks.watched_run import watch_run

    if grpo_system.logprob_tolerance > 0:
        not_applicable(f"system {grpo_system.name} is not exact: its steps cannot be repeated")
    plan = plan_for(learning_rate=LEARNING_RATE)
    grpo_system.run(NUM_STEPS_AFTER_RESTART, plan)
    grpo_system.save_state(tmp_path)
    went_on = watch_run(grpo_system, NUM_STEPS_AFTER_RESTART, plan)
    other = build_system()
    other.load_state(tmp_path)
    restarted = watch_run(other, NUM_STEPS_AFTER_RESTART, plan)
    grpo_gate.check("snapshot_fields_wrong", num_wrong_after_restart(went_on, restarted))


@pytest.mark.phase1
@pytest.mark.instead_of("test_telemetry_costs_next_to_nothing")
def test_events_of_the_system_cost_next_to_nothing(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    grpo_system: GrpoSystem,
    plan_for: PlanFor,
    sampling_reference: ReferenceArm,
    tmp_path: Path,
) -> None:
    """Whole steps with events in a file, over the same steps without. The clock stands outside."""
    from pytest_grpo.agreement import close_values
    from pytest_grpo.measuring.sampling.clock import now
    from pytest_grpo.types import Sample

    from ..checks.watched_run import repeated_steps

    steps = repeated_steps(grpo_system, NUM_STEPS, plan_for(), tmp_path / "state")

    def run(telemetry: AbstractContextManager[object]) -> Sample:
        steps.rewind()
        start = now()
        with telemetry:
            records = steps.run()
        return Sample(now() - start, output=[[record.reward_mean, record.loss] for record in records])

    on, off, _ = grpo_arms(
        agree=close_values(rtol=1e-3, atol=1e-4 + grpo_system.logprob_tolerance),
        on=lambda: run(grpo_system.events(tmp_path / "events.jsonl")),
        off=lambda: run(nullcontext()),
        reference=sampling_reference,
    )
    assert on.seconds <= grpo_threshold("telemetry_cost_ratio") * off.seconds
