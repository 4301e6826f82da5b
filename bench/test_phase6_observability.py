"""Phase 6: observability. Events of a run appear in the panels within seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpo_core.home import Home
    from pytest_grpo.gate.gates import Gate

    from .conftest import BuildStack

LIVE_PANELS = (9, 10, 11)
GIVE_UP_AFTER_S = 10.0


@pytest.mark.phase6
def test_events_reach_the_live_panels(grpo_gate: Gate, build_stack_for: BuildStack, bench_home: Home) -> None:
    """Seconds from the end of a training step until panels 9 to 11 all show its run."""
    from grpo_core.telemetry import open_telemetry
    from grpo_core.telemetry.gpu import GpuSampler
    from grpo_core.telemetry.panels.panels import PANELS
    from grpo_core.telemetry.panels.query import query_panels

    from .checks.whole_runs import train_in_test

    live = [panel for panel in PANELS if panel.number in LIVE_PANELS]
    stack = build_stack_for(
        "panels",
        embedded={"rollout": {"num_groups": 4, "group_size": 4}},
        schedule={"num_steps": 1, "max_policy_lag_steps": 0, "buffer_depth": 1},
    )
    with open_telemetry(stack.config, bench_home) as telemetry, GpuSampler(telemetry, interval_s=1.0):
        train_in_test(stack, telemetry)
        start = time.perf_counter()
        while True:
            results = query_panels(live, bench_home.events)
            waited_s = time.perf_counter() - start
            if all(results[number].rows for number in LIVE_PANELS) or waited_s > GIVE_UP_AFTER_S:
                break
    grpo_gate.check("live_panels", sum(bool(results[number].rows) for number in LIVE_PANELS))
    grpo_gate.check("panel_latency_s", waited_s)
