"""Faults that phase 1 must detect: telemetry that is slow, loses events or reports wrong values."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.faults.fault import Fault

if TYPE_CHECKING:
    from grpo_core.telemetry.delivery.cursor import Place
    from grpo_core.telemetry.events import Event, Telemetry, Value
    from grpo_core.telemetry.jsonl import JsonlSink, Page
    from grpo_core.types import Batch

BLOCKED_S = 0.05
OUTSIDE_EMIT_S = 0.3
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


def rollout_events_are_slow(patch: pytest.MonkeyPatch) -> None:
    """What the rollout thread computes for its events takes 300 ms, outside of ``emit``."""
    from grpo_core.schedule import rollout_thread

    original = rollout_thread.emit_rollout

    def emit_rollout(batch: Batch, depth: int, telemetry: Telemetry) -> None:
        time.sleep(OUTSIDE_EMIT_S)
        original(batch, depth, telemetry)

    patch.setattr(rollout_thread, "emit_rollout", emit_rollout)


def sink_blocks_every_second_step(patch: pytest.MonkeyPatch) -> None:
    """The sink rotates its file at the event of every second step, and blocks a second meanwhile."""
    from grpo_core.telemetry.jsonl import JsonlSink

    original = JsonlSink.write

    def write(self: JsonlSink, event: Event) -> None:
        if event.kind == "train_step" and int(event.fields["step"] or 0) % 2 == 0:
            time.sleep(1.0)
        original(self, event)

    patch.setattr(JsonlSink, "write", write)


def sampler_holds_the_interpreter(patch: pytest.MonkeyPatch) -> None:
    """The sampler of device statistics computes for 300 ms in Python, while no other thread can."""
    from grpo_core.telemetry import gpu

    original = gpu.GpuSampler._sample

    def sample(self: gpu.GpuSampler, handles: Mapping[int, Any]) -> None:
        end = time.thread_time() + OUTSIDE_EMIT_S
        while time.thread_time() < end:
            pass
        original(self, handles)

    patch.setattr(gpu.GpuSampler, "_sample", sample)


def sink_sends_when_it_closes(patch: pytest.MonkeyPatch) -> None:
    """The sink only remembers events while steps run, and takes 50 ms for each when it is closed."""
    from grpo_core.telemetry.jsonl import JsonlSink

    write_now, close_now = JsonlSink.write, JsonlSink.close
    waiting: list[Event] = []

    def close(self: JsonlSink) -> None:
        for event in waiting:
            time.sleep(BLOCKED_S)
            write_now(self, event)
        waiting.clear()
        close_now(self)

    patch.setattr(JsonlSink, "write", lambda self, event: waiting.append(event))
    patch.setattr(JsonlSink, "close", close)


def event_of_the_step_before(patch: pytest.MonkeyPatch) -> None:
    """The event of a step has its number, and the values of the step before."""
    _change_train_step(patch, lambda fields, before: {**(before or fields), "step": fields["step"]})


def ratio_extremes_swapped(patch: pytest.MonkeyPatch) -> None:
    """The event says the largest ratio where the smallest belongs, and the other way round."""
    _change_train_step(
        patch, lambda fields, _: {**fields, "ratio_min": fields["ratio_max"], "ratio_max": fields["ratio_min"]}
    )


def zeros_left_out(patch: pytest.MonkeyPatch) -> None:
    """An event leaves out the fields that are 0, to save space."""
    _change_train_step(
        patch, lambda fields, _: {name: value for name, value in fields.items() if value or name == "step"}
    )


def rollout_mean_of_winners(patch: pytest.MonkeyPatch) -> None:
    """The mean reward of a rollout event counts winners only."""
    from grpo_core.telemetry.events import Telemetry

    original = Telemetry.emit

    def emit(self: Telemetry, kind: str, /, **fields: Value) -> None:
        if kind == "rollout":
            fields["reward_mean"] = 1.0
        original(self, kind, **fields)

    patch.setattr(Telemetry, "emit", emit)


def queue_sends_the_newest_first(patch: pytest.MonkeyPatch) -> None:
    """A service gets its events in reverse, though the file has them in order."""
    from grpo_core.telemetry.delivery.delivery import Delivery

    original = Delivery._send

    def send(self: Delivery, page: Page, place: Place) -> None:
        original(self, replace(page, records=page.records[::-1]), place)

    patch.setattr(Delivery, "_send", send)


def snapshot_leaves_out_zeros(patch: pytest.MonkeyPatch) -> None:
    """A snapshot has no entry for what is 0, False or empty."""
    _change_snapshot(patch, lambda content: {name: value for name, value in content.items() if value})


def snapshot_flattened(patch: pytest.MonkeyPatch) -> None:
    """A snapshot holds nested values as text."""
    _change_snapshot(
        patch, lambda content: {name: str(v) if isinstance(v, list | dict) else v for name, v in content.items()}
    )


def snapshot_infinite_is_zero(patch: pytest.MonkeyPatch) -> None:
    """NaN and infinities are 0 in a snapshot, as if they had been measured."""
    _change_snapshot(patch, lambda content: {name: 0.0 if value is None else value for name, value in content.items()})


def wait_without_a_span(patch: pytest.MonkeyPatch) -> None:
    """The trainer waits 300 ms per step for something that no span names, as a lock or a service."""
    from grpo_core.training.trainer import Trainer

    original = Trainer._update

    def update(self: Trainer, *arguments: Any) -> None:
        time.sleep(OUTSIDE_EMIT_S)
        original(self, *arguments)

    patch.setattr(Trainer, "_update", update)


def outer_span_runs_on(patch: pytest.MonkeyPatch) -> None:
    """An outer span's clock goes on while an inner span has its own: their time is counted twice."""
    from grpo_core.ledger.recorder import Recorder

    original = Recorder._charge

    def charge(self: Recorder, now: float) -> None:
        for name in self._open[:-1]:
            self._seconds[name] += now - self._since
        original(self, now)

    patch.setattr(Recorder, "_charge", charge)


def _change_train_step(
    patch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Value], dict[str, Value] | None], dict[str, Value]],
) -> None:
    """Give each ``train_step`` event the fields that ``change`` makes of its own and of those of the step before."""
    from grpo_core.telemetry.events import Telemetry

    original = Telemetry.emit
    before: list[dict[str, Value]] = []

    def emit(self: Telemetry, kind: str, /, **fields: Value) -> None:
        if kind == "train_step":
            before.append(dict(fields))
            fields = change(fields, before[-2] if len(before) > 1 else None)
        original(self, kind, **fields)

    patch.setattr(Telemetry, "emit", emit)


def _change_snapshot(patch: pytest.MonkeyPatch, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Write what ``change`` makes of a snapshot."""
    from grpo_core.telemetry import snapshots

    original = snapshots.write_json
    patch.setattr(snapshots, "write_json", lambda target, content: original(target, change(content)))


FAULTS = (
    Fault(1, ("telemetry_cost_ratio",), blocking_sink),
    Fault(1, ("telemetry_cost_ratio",), commit_in_every_event),
    Fault(1, ("events_lost",), sink_never_flushes),
    Fault(1, ("events_lost",), events_rate_limited),
    Fault(1, ("snapshot_persisted",), snapshot_rounded),
    Fault(1, ("gpu_stats_events",), gpu_stats_without_memory),
    Fault(1, ("telemetry_cost_ratio",), rollout_events_are_slow),
    Fault(1, ("telemetry_cost_ratio",), sink_blocks_every_second_step),
    Fault(1, ("telemetry_cost_ratio",), sampler_holds_the_interpreter),
    Fault(1, ("telemetry_cost_ratio",), sink_sends_when_it_closes),
    Fault(1, ("ledger_other_share",), wait_without_a_span),
    Fault(1, ("ledger_gap_share",), outer_span_runs_on),
    Fault(1, ("event_values_wrong",), event_of_the_step_before),
    Fault(1, ("event_values_wrong",), ratio_extremes_swapped),
    Fault(1, ("event_values_wrong",), zeros_left_out),
    Fault(1, ("event_values_wrong",), rollout_mean_of_winners),
    Fault(1, ("event_values_wrong",), queue_sends_the_newest_first),
    Fault(1, ("snapshot_fields_wrong",), snapshot_leaves_out_zeros),
    Fault(1, ("snapshot_fields_wrong",), snapshot_flattened),
    Fault(1, ("snapshot_fields_wrong",), snapshot_infinite_is_zero),
)
