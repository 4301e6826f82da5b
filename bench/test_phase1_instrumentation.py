"""Phase 1: instrumentation. Events and snapshots hold exact values, device statistics arrive, a step costs no more."""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpo_core.home import Home
    from grpo_core.schedule.stack import LocalStack
    from grpo_core.telemetry.events import Telemetry
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.types import Sample

    from .conftest import BuildStack, GrpoArms, GrpoThreshold, ReferenceArm

NUM_STEPS = 4
NUM_TIMED_STEPS = 4
SECONDS_WITH_SERVICES = 5.0  # of a sample: what they send at once, since they send every five seconds
NUM_LEDGER_STEPS = 8
NUM_LEDGER_RUNS = 3
TWO_GROUPS = {"rollout": {"num_groups": 2, "group_size": 4}}
ONE_GROUP = {"rollout": {"num_groups": 1, "group_size": 2}}
STEP_EVENTS = ("adapter_load", "rollout", "adapter_publish", "train_step")


@pytest.mark.phase1
def test_no_event_is_lost(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """The events of each finished step are in the file when the run is over."""
    from grpo_core.telemetry import open_telemetry

    from .checks.whole_runs import train_in_test

    stack = build_stack_for("events", embedded=TWO_GROUPS, schedule={"num_steps": NUM_STEPS})
    with open_telemetry(stack.config, bench_home) as telemetry:
        train_in_test(stack, telemetry)
    kinds = [json.loads(line)["kind"] for line in (bench_home.events / "events.jsonl").read_text().splitlines()]
    grpo_gate.check("events_lost", sum(abs(kinds.count(kind) - NUM_STEPS) for kind in STEP_EVENTS))


@pytest.mark.phase1
def test_events_hold_what_the_step_returned(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """Each field of each event, in the file and as a service gets it, in order and with its step's number."""
    from .checks.telling import listen, num_wrong_values

    stack = build_stack_for("values", embedded=TWO_GROUPS, schedule={"num_steps": NUM_STEPS})
    told = listen(stack, bench_home.events / "values.jsonl")
    grpo_gate.check("event_values_wrong", num_wrong_values(told, stack))


@pytest.mark.phase1
def test_a_snapshot_is_persisted(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    from grpo_core.telemetry.snapshots import persist_profile_snapshot, read_snapshot

    stack = build_stack_for("snapshot", embedded=TWO_GROUPS)
    metrics = asdict(stack.trainer.step(stack.collector.collect(0)))
    persist_profile_snapshot(bench_home, "phase1", metrics)
    restored = read_snapshot(bench_home, "phase1")
    grpo_gate.check("snapshot_persisted", int(all(restored.get(name) == value for name, value in metrics.items())))


@pytest.mark.phase1
def test_a_snapshot_holds_every_value(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """Also those that are 0, nested or not finite, in the file itself and as it is read back."""
    from grpo_core.telemetry.snapshots import persist_profile_snapshot, read_snapshot

    from .checks.telling import num_wrong_fields, telling_metrics

    stack = build_stack_for("values", embedded=ONE_GROUP)
    metrics = stack.trainer.step(stack.collector.collect(0))
    telling = asdict(telling_metrics(metrics))
    payload = asdict(metrics) | {"none": None, "empty": {}, "nested": {"deep": [telling, [0, False, 0.0, ""]]}}
    num_wrong = 0
    for name, values in (("real", payload), ("telling", telling)):
        path = persist_profile_snapshot(bench_home, name, values)
        in_file = json.loads(path.read_text(encoding="utf-8"))
        num_wrong += num_wrong_fields(values, in_file) + num_wrong_fields(values, read_snapshot(bench_home, name))
    grpo_gate.check("snapshot_fields_wrong", num_wrong)


@pytest.mark.phase1
@pytest.mark.usefixtures("build_stack_for")  # it is grpo_core that samples them
def test_device_statistics_flow(grpo_gate: Gate, bench_home: Home) -> None:
    from grpo_core.telemetry.events import Telemetry
    from grpo_core.telemetry.gpu import GpuSampler
    from grpo_core.telemetry.jsonl import JsonlSink

    path = bench_home.events / "phase1.jsonl"
    with Telemetry("phase1", [JsonlSink(path)]) as telemetry, GpuSampler(telemetry, interval_s=0.05):
        time.sleep(0.2)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    samples = [event for event in events if event["kind"] == "gpu_stats"]
    # None where a GPU does not say, as one that shares the host's memory.
    with_memory = [event for event in samples if event["memory_used_bytes"] is None or event["memory_used_bytes"] > 0]
    grpo_gate.check("gpu_stats_events", len(with_memory))


@pytest.mark.phase1
def test_the_ledger_says_where_the_time_goes(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """Of each thread's wall clock next to nothing is in no span, and the spans are no more than another clock says.

    A thread that waits for a core between two spans has that in no span, so the best of some runs counts.
    """
    from .checks.ledger import gap_share, other_share, record

    stack = build_stack_for("ledger", embedded=TWO_GROUPS, schedule={"num_steps": NUM_LEDGER_STEPS})
    runs = [record(stack, bench_home) for _ in range(NUM_LEDGER_RUNS)]
    grpo_gate.check("ledger_gap_share", min(map(gap_share, runs)))  # first: of what is counted twice no share is right
    grpo_gate.check("ledger_other_share", min(map(other_share, runs)))


@pytest.mark.phase1
def test_telemetry_costs_next_to_nothing(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    build_stack_for: BuildStack,
    bench_home: Home,
    sampling_reference: ReferenceArm,
) -> None:
    """Whole steps of the loop with telemetry, as ``grpo train`` opens it, over the same steps without an event.

    The clock stands outside. It runs until sampler and sinks are closed, so that work put off to the end counts.
    It starts once they are open, and have had one event: a run starts its services once. Both arms close what they
    opened, since that costs a run the same, however many steps it has, and both start a sampler before their clock:
    torch's threads sleep meanwhile, which makes the first steps slower. Where a service is configured, a sample has as
    many steps as one of its sendings carries, since it sends by the second and not by the step: whenever that is due,
    closing delivers the rest, so each sample has its whole share.
    """
    from pytest_grpo.agreement import close_values, nothing_to_check

    stack = build_stack_for(
        "telemetry",
        embedded={"rollout": {"num_groups": 4, "group_size": 8}},
        training={"learning_rate": 0.0},
        schedule={"num_steps": NUM_TIMED_STEPS, "max_policy_lag_steps": 0, "buffer_depth": 1},
    )
    num_runs = num_runs_of(stack, bench_home)
    on, off, _ = grpo_arms(
        agree=close_values() if stack.engine.is_batch_invariant else nothing_to_check,
        on=lambda: steps_with(stack, bench_home, num_runs),
        off=lambda: steps_without(stack, bench_home, num_runs),
        reference=sampling_reference,
    )
    assert on.seconds <= grpo_threshold("telemetry_cost_ratio") * off.seconds


def num_runs_of(stack: LocalStack, home: Home) -> int:
    """How often a sample repeats the steps of ``stack``."""
    from grpo_core.telemetry.sinks import open_connections

    if not open_connections(stack.config, home, continues=False):
        return 1
    seconds = steps_without(stack, home, 1).seconds
    assert seconds is not None
    return math.ceil(SECONDS_WITH_SERVICES / seconds)


def steps_with(stack: LocalStack, home: Home, num_runs: int) -> Sample:
    """The steps of a run with its sinks, its sampler and their threads."""
    from grpo_core.telemetry.gpu import GpuSampler

    with ExitStack() as opened:
        telemetry = opened.enter_context(started_telemetry(stack, home))
        opened.enter_context(GpuSampler(telemetry, stack.config.telemetry.gpu_stats_interval_s))
        start = time.perf_counter()
        losses = same_steps(stack, telemetry, num_runs)
        opened.close()
        return finished(start, losses)


def steps_without(stack: LocalStack, home: Home, num_runs: int) -> Sample:
    """The same steps beside idle sinks: no event, and not what the rollout thread computes for events only."""
    from grpo_core.schedule import rollout_thread
    from grpo_core.telemetry.events import Telemetry, Value
    from grpo_core.telemetry.gpu import GpuSampler

    class Silence(Telemetry):
        def emit(self, kind: str, /, **fields: Value) -> None:
            return

    with pytest.MonkeyPatch.context() as patch, ExitStack() as opened:
        for name in ("emit_rollout", "emit_failures"):
            patch.setattr(rollout_thread, name, lambda *_: None)
        opened.enter_context(started_telemetry(stack, home))
        silence = Silence(stack.config.run, ())
        with GpuSampler(silence):
            pass
        start = time.perf_counter()
        losses = same_steps(stack, silence, num_runs)
        opened.close()
        return finished(start, losses)


def started_telemetry(stack: LocalStack, home: Home) -> Telemetry:
    """Sinks that have delivered one event: a service is started with its first one."""
    from grpo_core.telemetry import open_telemetry

    telemetry = open_telemetry(stack.config, home)
    telemetry.emit("run_finished", num_steps=0, duration_s=0.0)  # any event will do
    telemetry.flush()
    return telemetry


def same_steps(stack: LocalStack, telemetry: Telemetry, num_runs: int) -> list[float]:
    """The losses of the first steps of ``stack``, the same in each run: the learning rate is 0."""
    from .checks.whole_runs import train_in_test

    losses: list[float] = []
    for _ in range(num_runs):
        stack.trainer.version = 0
        losses += [report.metrics.loss for report in train_in_test(stack, telemetry).reports]
    return losses


def finished(start: float, losses: list[float]) -> Sample:
    from pytest_grpo.types import Sample

    return Sample(time.perf_counter() - start, output=losses)
