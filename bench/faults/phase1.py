"""Faults that phase 1 must detect: telemetry that is slow, loses events or reports wrong values."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.faults.fault import Fault

if TYPE_CHECKING:
    from grpo_core.telemetry.events import Event, Telemetry, Value
    from grpo_core.telemetry.jsonl import JsonlSink

BLOCKED_S = 0.05
BUFFER_EVENTS = 10_000
MIN_EVENT_DISTANCE_S = 0.02


def blocking_sink(patch: pytest.MonkeyPatch) -> None:
    """The sink blocks 50 ms per event, as one that talks to a network in the caller's thread."""
    from grpo_core.telemetry.jsonl import JsonlSink

    original = JsonlSink.write

    def write(self: JsonlSink, event: Event) -> None:
        time.sleep(BLOCKED_S)
        original(self, event)

    patch.setattr(JsonlSink, "write", write)


def commit_in_every_event(patch: pytest.MonkeyPatch) -> None:
    """Every event carries the commit and whether files differ from it, and asks git for both again."""
    from grpo_core.telemetry import snapshots
    from grpo_core.telemetry.events import Telemetry

    original, read_commit = Telemetry.emit, snapshots._git_commit

    def emit(self: Telemetry, kind: str, /, **fields: Value) -> None:
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True).stdout
        original(self, kind, commit=read_commit(), is_dirty=bool(changed), **fields)

    patch.setattr(Telemetry, "emit", emit)


def sink_never_flushes(patch: pytest.MonkeyPatch) -> None:
    """The sink collects 10,000 events before it writes, and closing it forgets the rest."""
    from grpo_core.telemetry.jsonl import JsonlSink

    original = JsonlSink.write
    waiting: list[Event] = []

    def write(self: JsonlSink, event: Event) -> None:
        waiting.append(event)
        if len(waiting) >= BUFFER_EVENTS:
            for waited in waiting:
                original(self, waited)
            waiting.clear()

    patch.setattr(JsonlSink, "write", write)


def events_rate_limited(patch: pytest.MonkeyPatch) -> None:
    """The sink drops an event that comes within 20 ms of the one before: a rate limit meant for gpu_stats."""
    from grpo_core.telemetry.jsonl import JsonlSink

    original = JsonlSink.write
    written_s: dict[int, float] = {}

    def write(self: JsonlSink, event: Event) -> None:
        if event.time_s - written_s.get(id(self), 0.0) >= MIN_EVENT_DISTANCE_S:
            written_s[id(self)] = event.time_s
            original(self, event)

    patch.setattr(JsonlSink, "write", write)


def snapshot_rounded(patch: pytest.MonkeyPatch) -> None:
    """A snapshot keeps three digits behind the point."""
    from grpo_core.telemetry import snapshots

    original = snapshots.write_json

    def write_json(target: Path, content: Mapping[str, Any]) -> Path:
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in content.items()}
        return original(target, rounded)

    patch.setattr(snapshots, "write_json", write_json)


def gpu_stats_without_memory(patch: pytest.MonkeyPatch) -> None:
    """The device statistics say that no memory is in use."""
    from grpo_core.telemetry import gpu

    host_stats, gpu_stats = gpu._host_stats, gpu._gpu_stats
    patch.setattr(gpu, "_host_stats", lambda: host_stats() | {"memory_used_bytes": 0})
    patch.setattr(gpu, "_gpu_stats", lambda index, handle: gpu_stats(index, handle) | {"memory_used_bytes": 0})


FAULTS = (
    Fault(1, ("telemetry_cost_ratio",), blocking_sink),
    Fault(1, ("telemetry_cost_ratio",), commit_in_every_event),
    Fault(1, ("events_lost",), sink_never_flushes),
    Fault(1, ("events_lost",), events_rate_limited),
    Fault(1, ("snapshot_persisted",), snapshot_rounded),
    Fault(1, ("gpu_stats_events",), gpu_stats_without_memory),
)
