"""Faults that phase 0 must detect: the trace of a step is empty, incomplete or has wrong counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.faults.fault import Fault

if TYPE_CHECKING:
    from grpo_core.schedule.stack import Stack
    from grpo_core.telemetry.events import Telemetry


def profiler_off(patch: pytest.MonkeyPatch) -> None:
    """The profiler stops before the block runs: the trace has no spans."""
    from grpo_core.telemetry.traces import profiler

    original = profiler.trace

    @contextmanager
    def trace(folder: Path, enabled: bool = True) -> Iterator[None]:
        with original(folder, enabled):
            pass
        yield

    patch.setattr(profiler, "trace", trace)


def spans_renamed(patch: pytest.MonkeyPatch) -> None:
    """The trainer's spans get a prefix that the reader does not know."""
    from torch.autograd.profiler import record_function

    from grpo_core.training import stopwatch

    patch.setattr(stopwatch, "record_function", lambda name: record_function(f"trainer/{name}"))


def publish_without_span(patch: pytest.MonkeyPatch) -> None:
    """Publishing an adapter has lost its span."""
    from grpo_core.training import stopwatch

    original = stopwatch.record_function
    patch.setattr(stopwatch, "record_function", lambda name: nullcontext() if name == "publish" else original(name))


def trace_cut_off(patch: pytest.MonkeyPatch) -> None:
    """The trace keeps only the first half of the profiled time: its buffer was full."""
    from grpo_core.home import write_json
    from grpo_core.telemetry.traces import profiler

    original = profiler.trace

    @contextmanager
    def trace(folder: Path, enabled: bool = True) -> Iterator[None]:
        with original(folder, enabled):
            yield
        content = json.loads((folder / profiler.TRACE_FILE).read_bytes())
        times_us = [event["ts"] for event in content["traceEvents"] if "dur" in event]
        middle_us = (min(times_us) + max(times_us)) / 2
        kept = [event for event in content["traceEvents"] if event.get("ts", 0) < middle_us]
        write_json(folder / profiler.TRACE_FILE, {**content, "traceEvents": kept})

    patch.setattr(profiler, "trace", trace)


def spans_recorded_twice(patch: pytest.MonkeyPatch) -> None:
    """Each span of the trainer is recorded by a decorator, and by hand as before."""
    from torch.autograd.profiler import record_function

    from grpo_core.training import stopwatch

    @contextmanager
    def twice(name: str) -> Iterator[AbstractContextManager[Any]]:
        with record_function(name), record_function(name) as span:
            yield span

    patch.setattr(stopwatch, "record_function", twice)


def published_twice(patch: pytest.MonkeyPatch) -> None:
    """Every step publishes its adapter twice."""
    from grpo_core.schedule import loop

    original = loop.publish

    def publish(stack: Stack, telemetry: Telemetry) -> float:
        return original(stack, telemetry) + original(stack, telemetry)

    patch.setattr(loop, "publish", publish)


FAULTS = (
    Fault(0, ("trace_spans_present",), profiler_off),
    Fault(0, ("trace_spans_present",), spans_renamed),
    Fault(0, ("trace_spans_present",), publish_without_span),
    Fault(0, ("trace_spans_present",), trace_cut_off),
    Fault(0, ("trace_span_count_errors",), spans_recorded_twice),
    Fault(0, ("trace_span_count_errors",), published_twice),
)
