"""Phase 0: the harness works. One trainer step leaves a trace that can be read, with the step's spans in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpo_core.home import Home
    from pytest_grpo.gate.gates import Gate

    from .conftest import BuildStack

TRAINER_SPANS = ("loss_forward", "backward", "optimizer", "publish")


@pytest.mark.phase0
def test_a_trainer_step_leaves_a_readable_trace(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    from grpo_core.schedule.loop import publish
    from grpo_core.telemetry import open_telemetry
    from grpo_core.telemetry.traces.profiler import read_trace, trace

    stack = build_stack_for("baseline", embedded={"rollout": {"num_groups": 4, "group_size": 4}})
    batch = stack.collector.collect(0)
    folder = bench_home.traces / "baseline"
    with open_telemetry(stack.config, bench_home) as telemetry, trace(folder):
        metrics = stack.trainer.step(batch)
        publish(stack, telemetry)
    found = read_trace(folder).annotations
    present = [name for name in TRAINER_SPANS if name in found and found[name].total_ms > 0]
    grpo_gate.check("trace_spans_present", len(present))
    expected = dict(zip(TRAINER_SPANS, (metrics.num_micro_batches, metrics.num_micro_batches, 1, 1), strict=True))
    grpo_gate.check("trace_span_count_errors", sum(found[name].count != count for name, count in expected.items()))
