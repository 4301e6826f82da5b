"""Phase 1: instrumentation. Telemetry costs next to nothing, a snapshot survives, device statistics arrive."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.conftest import BuildStack
    from grpo_core.home import Home
    from pytest_grpo.gates import Gate

NUM_STEPS = 8


@pytest.mark.phase1
def test_telemetry_costs_next_to_nothing(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """The time that the loop spends in ``emit``, both threads added up, over the time of the steps without it."""
    from grpo_core.schedule.loop import train
    from grpo_core.telemetry import open_telemetry
    from grpo_core.telemetry.events import Telemetry, Value
    from grpo_core.telemetry.gpu import GpuSampler

    class TimedTelemetry(Telemetry):
        def __init__(self, inner: Telemetry) -> None:
            super().__init__(inner.run, ())
            self.inner = inner
            self.spent_s = [0.0]

        def emit(self, kind: str, /, **fields: Value) -> None:
            start = time.perf_counter()
            self.inner.emit(kind, **fields)
            self.spent_s[-1] += time.perf_counter() - start

    stack = build_stack_for("telemetry", schedule={"num_steps": NUM_STEPS, "max_policy_lag_steps": 0})
    with open_telemetry(stack.config, bench_home) as opened, GpuSampler(opened, interval_s=1.0):
        timed = TimedTelemetry(opened)
        result = train(stack, timed, save_checkpoints=False, on_step=lambda report: timed.spent_s.append(0.0))
    costs = [
        1.0 + spent / (report.step_s + report.rollout.duration_s)
        for spent, report in zip(timed.spent_s, result.reports, strict=False)
    ]
    grpo_gate.estimate("telemetry_cost_ratio", costs)


@pytest.mark.phase1
def test_a_snapshot_is_persisted(grpo_gate: Gate, bench_home: Home) -> None:
    from grpo_core.telemetry.snapshots import persist_profile_snapshot, read_snapshot

    persist_profile_snapshot(bench_home, "phase1", {"loss_forward_ms": 1.5})
    restored = read_snapshot(bench_home, "phase1")
    grpo_gate.check("snapshot_persisted", int(restored["loss_forward_ms"] == 1.5))


@pytest.mark.phase1
def test_device_statistics_flow(grpo_gate: Gate, bench_home: Home) -> None:
    from grpo_core.telemetry.events import Telemetry
    from grpo_core.telemetry.gpu import GpuSampler
    from grpo_core.telemetry.sinks import JsonlSink

    path = bench_home.events / "phase1.jsonl"
    with Telemetry("phase1", [JsonlSink(path)]) as telemetry, GpuSampler(telemetry, interval_s=0.05):
        time.sleep(0.2)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    with_memory = [event for event in events if event["kind"] == "gpu_stats" and event["memory_used_bytes"] > 0]
    grpo_gate.check("gpu_stats_events", len(with_memory))
