"""Phase 6 of any system: its events appear in the panels within seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpo_core.home import Home
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem

    from .conftest import PlanFor

LIVE_PANELS = (9, 10, 11)
GIVE_UP_AFTER_S = 10.0


@pytest.mark.phase6
@pytest.mark.instead_of("test_events_reach_the_live_panels")
def test_events_of_the_system_reach_the_live_panels(
    grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor, bench_home: Home
) -> None:
    """Seconds from the end of a run until panels 9 to 11 all show it. The machine's statistics are the session's own;
    the events of the other two panels are the system's."""
    from grpo_core.telemetry.events import Telemetry
    from grpo_core.telemetry.gpu import GpuSampler
    from grpo_core.telemetry.jsonl import JsonlSink
    from grpo_core.telemetry.panels.panels import PANELS
    from grpo_core.telemetry.panels.query import query_panels

    live = [panel for panel in PANELS if panel.number in LIVE_PANELS]
    machine = Telemetry("machine", [JsonlSink(bench_home.events / "machine.jsonl")])
    with machine, GpuSampler(machine, interval_s=1.0), grpo_system.events(bench_home.events / "system.jsonl"):
        grpo_system.run(1, plan_for())
        start = time.perf_counter()
        while True:
            results = query_panels(live, bench_home.events)
            waited_s = time.perf_counter() - start
            if all(results[number].rows for number in LIVE_PANELS) or waited_s > GIVE_UP_AFTER_S:
                break
    grpo_gate.check("live_panels", sum(bool(results[number].rows) for number in LIVE_PANELS))
    grpo_gate.check("panel_latency_s", waited_s)
