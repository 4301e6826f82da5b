"""Phase 1: instrumentation. Telemetry costs next to nothing, a snapshot survives, device statistics arrive."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.conftest import BuildStack, GrpoArms, GrpoThreshold
    from grpo_core.home import Home
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.types import Sample

NUM_STEPS = 4
STEP_EVENTS = ("adapter_load", "rollout", "adapter_publish", "train_step")


@pytest.mark.phase1
def test_telemetry_costs_next_to_nothing(
    grpo_arms: GrpoArms,
    grpo_threshold: GrpoThreshold,
    build_stack_for: BuildStack,
    bench_home: Home,
) -> None:
    """A step of the loop, over the same step without the time that its threads spend in ``emit``."""
    from grpo_core.schedule.loop import train
    from grpo_core.telemetry import open_telemetry
    from grpo_core.telemetry.events import Telemetry, Value
    from grpo_core.telemetry.gpu import GpuSampler
    from pytest_grpo.agreement import close_values
    from pytest_grpo.types import Sample

    class TimedTelemetry(Telemetry):
        def __init__(self, inner: Telemetry) -> None:
            super().__init__(inner.run, ())
            self.inner = inner
            self.spent_s = 0.0

        def emit(self, kind: str, /, **fields: Value) -> None:
            start = time.perf_counter()
            self.inner.emit(kind, **fields)
            self.spent_s += time.perf_counter() - start

    stack = build_stack_for(
        "telemetry",
        rollout={"num_groups": 4, "group_size": 8},
        training={"learning_rate": 0.0},
        schedule={"num_steps": 1, "max_policy_lag_steps": 0},
    )

    def step(telemetry: TimedTelemetry) -> Sample:
        stack.trainer.version, telemetry.spent_s = 0, 0.0  # each run is the same first step
        report = train(stack, telemetry, save_checkpoints=False).reports[0]
        total_s = report.step_s + report.rollout.duration_s + telemetry.spent_s
        alone_s = total_s - telemetry.spent_s
        return Sample(total_s, {"alone_s": alone_s}, output=report.metrics.loss)

    with open_telemetry(stack.config, bench_home) as opened, GpuSampler(opened, interval_s=1.0):
        timed = TimedTelemetry(opened)
        (loop,) = grpo_arms(agree=close_values(), loop=lambda: step(timed))
        assert loop.seconds <= grpo_threshold("telemetry_cost_ratio") * loop.alone_s


@pytest.mark.phase1
def test_no_event_is_lost(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """The events of each finished step are in the file when the run is over."""
    from grpo_core.schedule.loop import train
    from grpo_core.telemetry import open_telemetry

    stack = build_stack_for("events", rollout={"num_groups": 2, "group_size": 4}, schedule={"num_steps": NUM_STEPS})
    with open_telemetry(stack.config, bench_home) as telemetry:
        train(stack, telemetry, save_checkpoints=False)
    kinds = [json.loads(line)["kind"] for line in (bench_home.events / "events.jsonl").read_text().splitlines()]
    grpo_gate.check("events_lost", sum(abs(kinds.count(kind) - NUM_STEPS) for kind in STEP_EVENTS))


@pytest.mark.phase1
def test_a_snapshot_is_persisted(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    from grpo_core.telemetry.snapshots import persist_profile_snapshot, read_snapshot

    stack = build_stack_for("snapshot", rollout={"num_groups": 2, "group_size": 4})
    metrics = asdict(stack.trainer.step(stack.collector.collect(0)))
    persist_profile_snapshot(bench_home, "phase1", metrics)
    restored = read_snapshot(bench_home, "phase1")
    grpo_gate.check("snapshot_persisted", int(all(restored.get(name) == value for name, value in metrics.items())))


@pytest.mark.phase1
def test_device_statistics_flow(grpo_gate: Gate, bench_home: Home) -> None:
    from grpo_core.telemetry.events import Telemetry
    from grpo_core.telemetry.gpu import GpuSampler
    from grpo_core.telemetry.jsonl import JsonlSink

    path = bench_home.events / "phase1.jsonl"
    with Telemetry("phase1", [JsonlSink(path)]) as telemetry, GpuSampler(telemetry, interval_s=0.05):
        time.sleep(0.2)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    with_memory = [event for event in events if event["kind"] == "gpu_stats" and event["memory_used_bytes"] > 0]
    grpo_gate.check("gpu_stats_events", len(with_memory))
