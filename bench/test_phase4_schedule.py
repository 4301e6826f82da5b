"""Phase 4: scheduling. Nothing that was played is lost, no batch is too old, and rollouts overlap with training."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpo_core.home import Home
    from grpo_core.schedule.reports import TrainResult
    from grpo_core.schedule.stack import LocalStack, Stack
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.types import Sample

    from .conftest import BuildStack, GrpoArms, GrpoThreshold, ReferenceArm

NUM_STEPS = 10
BUFFER_DEPTH = 3
MAX_POLICY_LAG_STEPS = 3

OVERLAP = {
    # Of the tiny one, Python takes so much that the sides wait for each other's interpreter.
    "model": {"name": "small"},
    "rollout": {"num_groups": 4, "group_size": 4},
    "training": {"kl_coefficient": 0.0},
}
NUM_OVERLAP_STEPS = 4
NUM_WHOLE_STEPS = 4
LETTER_TOKENS = 24
LOST_EVERY = 5  # of the letters
MAX_CORES_OF_OTHERS = 0.2


def build_letters(build_stack_for: BuildStack, run: str) -> LocalStack:
    """Three batches of long free answers. Some are more than a micro-batch holds."""
    return build_stack_for(
        run,
        rollout={
            "num_groups": 2,
            "group_size": 3,
            "max_completion_tokens": LETTER_TOKENS,
            "max_refill_rounds": 0,
            "overlong_buffer_tokens": 0,
        },
        training={
            "learning_rate": 0.0,
            "micro_batch_tokens": 2 * LETTER_TOKENS,
            "drop_zero_variance_groups": False,
            "mask_overlong": False,
        },
        schedule={"num_steps": 3},
    )


@pytest.mark.phase4
def test_siblings_differ(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """All answers of a turn have the same prompt and policy. No two of them are the same sample."""
    from .checks.played import num_identical, play_letters

    played = play_letters(build_letters(build_stack_for, "siblings"), bench_home)
    grpo_gate.check("identical_siblings", num_identical(played))


@pytest.mark.phase4
def test_every_episode_is_in_a_batch_or_reported(
    grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home
) -> None:
    """Each episode that an environment began is trained on as it was played, or its failure is an event."""
    from .checks.played import num_missing, play_letters

    played = play_letters(build_letters(build_stack_for, "episodes"), bench_home, loses_every=LOST_EVERY)
    grpo_gate.check("episodes_missing", num_missing(played))


@pytest.mark.phase4
def test_what_was_sampled_is_trained_on(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """Per completion, the tokens with a loss are the ones that the engine drew, to the last one."""
    from .checks.played import num_wrong_lengths, play_letters

    stack = build_letters(build_stack_for, "lengths")
    played = play_letters(stack, bench_home)
    num_wrong = num_wrong_lengths(played, max_tokens=LETTER_TOKENS, stop_ids=stack.tokenizer.stop_ids)
    grpo_gate.check("lengths_wrong", num_wrong)


def run_schedule(stack: Stack, home: Home) -> TrainResult:
    from grpo_core.telemetry import open_telemetry

    from .checks.whole_runs import train_in_test

    with open_telemetry(stack.config, home) as telemetry:
        return train_in_test(stack, telemetry)


@pytest.mark.phase4
def test_lag_and_depth_stay_where_they_were_set(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    schedule = {
        "num_steps": NUM_STEPS,
        "buffer_depth": BUFFER_DEPTH,
        "max_policy_lag_steps": MAX_POLICY_LAG_STEPS,
    }
    result = run_schedule(build_stack_for("depth", schedule=schedule), bench_home)
    oldest = max(report.policy_lag_steps for report in result.reports)
    grpo_gate.check("policy_lag_steps_over_budget", max(0, oldest - MAX_POLICY_LAG_STEPS))
    # The last steps drain the buffer: no batch follows them.
    depths = [report.buffer_depth for report in result.reports[: NUM_STEPS - BUFFER_DEPTH + 1]]
    grpo_gate.check("buffer_depth_error", abs(sum(depths) / len(depths) - BUFFER_DEPTH))
    grpo_gate.check("steps_missing", NUM_STEPS - len(result.reports))


@pytest.mark.phase4
def test_whole_steps_report(
    grpo_arms: GrpoArms, build_stack_for: BuildStack, bench_home: Home, sampling_reference: ReferenceArm
) -> None:
    """Whole steps with the run's own schedule: what a comparison of two versions or settings measures last of all."""
    from pytest_grpo.agreement import nothing_to_check

    stack = build_stack_for("whole", training={"learning_rate": 0.0}, schedule={"num_steps": NUM_WHOLE_STEPS})
    steps, _ = grpo_arms(
        agree=nothing_to_check, steps=lambda: whole_steps(stack, bench_home), reference=sampling_reference
    )
    assert steps.num_steps_reported == NUM_WHOLE_STEPS
    steps.seconds.report()


def whole_steps(stack: LocalStack, home: Home) -> Sample:
    """A run from its first batch to its last step."""
    from pytest_grpo.types import Sample

    stack.trainer.version = 0  # the same steps again
    start = time.perf_counter()
    reports = run_schedule(stack, home).reports
    seconds = time.perf_counter() - start
    counts = {"num_steps": NUM_WHOLE_STEPS, "num_steps_reported": len(reports)}
    return Sample(seconds, {"tokens": sum(report.metrics.num_loss_tokens for report in reports), **counts})


@pytest.mark.phase4
def test_overlap_hides_the_faster_side(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    build_stack_for: BuildStack,
    bench_home: Home,
    sampling_reference: ReferenceArm,
) -> None:
    """Time per step when both sides run at once, over the slower side alone. Each side has one core in both runs.

    Rounds in which other processes used the cores are dropped: the two runs need different numbers of cores. At a
    learning rate of 0 every version is the same policy, so both runs must do the same work.
    """
    from pytest_grpo.agreement import close_values, nothing_to_check
    from pytest_grpo.settings.applicability import not_applicable
    from pytest_grpo.types import Sample

    if (os.cpu_count() or 1) < 2:
        not_applicable("rollouts and training would share the only core")

    def build(name: str, max_policy_lag_steps: int) -> LocalStack:
        schedule = {
            "num_steps": NUM_OVERLAP_STEPS,
            "max_policy_lag_steps": max_policy_lag_steps,
            "buffer_depth": 1,
            "torch_threads": 1,
        }
        return build_stack_for(name, embedded=OVERLAP, training={"learning_rate": 0.0}, schedule=schedule)

    alone, together = build("alone", 0), build("together", 1)

    def run(stack: Stack) -> Sample:
        stack.trainer.version = 0  # the same steps again
        reports = run_schedule(stack, bench_home).reports
        steady = reports[1:]
        if stack is alone:
            seconds = max(sum(r.step_s for r in steady), sum(r.rollout.duration_s for r in steady))
        else:
            seconds = reports[-1].finished_at_s - reports[0].finished_at_s
        results = [(report.metrics.loss, report.metrics.reward_mean) for report in reports]
        return Sample(seconds / len(steady), output=results)

    overlapped, slower_side, _ = grpo_arms(
        agree=close_values(rtol=1e-3, atol=1e-4) if alone.engine.is_batch_invariant else nothing_to_check,
        max_cores_of_others=MAX_CORES_OF_OTHERS,
        overlapped=lambda: run(together),
        slower_side=lambda: run(alone),
        reference=sampling_reference,
    )
    assert overlapped.seconds <= grpo_threshold("overlapped_over_slower_side") * slower_side.seconds
