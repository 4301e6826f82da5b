"""Phase 0 of any system: a trainer step leaves a readable trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem

    from .conftest import PlanFor


@pytest.mark.phase0
@pytest.mark.instead_of("test_a_trainer_step_leaves_a_readable_trace")
def test_a_step_of_the_system_leaves_a_readable_trace(
    grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor, tmp_path: Path
) -> None:
    from grpo_core.telemetry.traces.profiler import read_trace
    from pytest_grpo.systems.protocol import STEP_ANNOTATIONS

    from ..checks.system_samples import sample_batch

    batch = sample_batch(grpo_system, plan_for())
    with grpo_system.trace(tmp_path):
        step = grpo_system.train_step(batch)
        grpo_system.publish_adapter()
    found = read_trace(tmp_path).annotations
    present = [name for name in STEP_ANNOTATIONS if name in found and found[name].total_ms > 0]
    grpo_gate.check("trace_spans_present", len(present))
    expected = dict(zip(STEP_ANNOTATIONS, (step.num_micro_batches, step.num_micro_batches, 1, 1), strict=True))
    grpo_gate.check("trace_span_count_errors", sum(found[name].count != count for name, count in expected.items()))
