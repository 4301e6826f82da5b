"""Faults that phase 6 must detect: panels that stay empty or update too late."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.faults.fault import Fault

if TYPE_CHECKING:
    import duckdb

    from grpo_core.telemetry.events import Event
    from grpo_core.telemetry.jsonl import JsonlSink
    from grpo_core.telemetry.panels.panels import Panel
    from grpo_core.telemetry.panels.query import PanelResult

FLUSH_EVERY_S = 6.0
INGESTED_AFTER_S = 3.0


def dashboard_query_broken(patch: pytest.MonkeyPatch) -> None:
    """The panels query event kinds that are never emitted."""
    from grpo_core.telemetry.panels import query

    original = query._answer

    def answer(connection: duckdb.DuckDBPyConnection, panel: Panel, max_rows: int) -> PanelResult:
        return original(connection, replace(panel, sql=panel.sql.replace("kind = '", "kind = 'grpo.")), max_rows)

    patch.setattr(query, "_answer", answer)


def dashboard_reads_another_folder(patch: pytest.MonkeyPatch) -> None:
    """The panels read a folder that the sink does not write to."""
    from grpo_core.telemetry.panels import query

    original = query._load_events

    def load_events(connection: duckdb.DuckDBPyConnection, events_folder: Path, runs: str) -> None:
        original(connection, events_folder / "latest", runs)

    patch.setattr(query, "_load_events", load_events)


def gpu_sampler_silent(patch: pytest.MonkeyPatch) -> None:
    """The GPU sampler's thread runs and never emits a sample."""
    from grpo_core.telemetry.gpu import GpuSampler

    patch.setattr(GpuSampler, "_sample", lambda self, handles: None)


def events_pretty_printed(patch: pytest.MonkeyPatch) -> None:
    """The sink writes an event over several lines, which no reader of JSON lines understands."""
    from grpo_core.telemetry.jsonl import JsonlSink

    def write(self: JsonlSink, event: Event) -> None:
        self._file.write(json.dumps(event.record(), indent=2).encode() + b"\n")

    patch.setattr(JsonlSink, "write", write)


def sink_flushes_late(patch: pytest.MonkeyPatch) -> None:
    """The sink writes every 6 s only, all that has come in since."""
    from grpo_core.telemetry.jsonl import JsonlSink

    original = JsonlSink.write
    waiting: list[Event] = []

    def write(self: JsonlSink, event: Event) -> None:
        waiting.append(event)
        if event.time_s - waiting[0].time_s >= FLUSH_EVERY_S:
            for waited in waiting:
                original(self, waited)
            waiting.clear()

    patch.setattr(JsonlSink, "write", write)


def newest_events_hidden(patch: pytest.MonkeyPatch) -> None:
    """The panels leave out the last 3 s, as if events had to be ingested first."""
    from grpo_core.telemetry.panels import query

    original = query._load_events

    def load_events(connection: duckdb.DuckDBPyConnection, events_folder: Path, runs: str) -> None:
        original(connection, events_folder, runs)
        connection.execute("DELETE FROM events WHERE time > ?", [time.time() - INGESTED_AFTER_S])

    patch.setattr(query, "_load_events", load_events)


FAULTS = (
    Fault(6, ("live_panels",), dashboard_query_broken),
    Fault(6, ("live_panels",), dashboard_reads_another_folder),
    Fault(6, ("live_panels",), gpu_sampler_silent),
    Fault(6, ("live_panels",), events_pretty_printed),
    Fault(6, ("panel_latency_s",), sink_flushes_late),
    Fault(6, ("panel_latency_s",), newest_events_hidden),
)
