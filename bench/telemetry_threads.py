"""Processor time that each thread of the telemetry takes for a step, in milliseconds. Needs Linux.

    uv run python -m bench.telemetry_threads

``bench.telemetry_cost`` runs it with its services. The events of some real steps of the embedded default are written
again and again, with one sending for as many steps as take five seconds. So it says what the product does, and not how
busy the machine is: it is the processor's time, and nothing trains meanwhile. A busy machine still takes up to a third
more, as its caches are shared.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from bench.test_phase1_instrumentation import same_steps, started_telemetry
from grpo_core.config import build_config
from grpo_core.home import Home
from grpo_core.schedule.stack import LocalStack, build_stack
from grpo_core.telemetry.events import Event, Telemetry
from grpo_core.telemetry.gpu import GpuSampler

NUM_STEPS = 12  # that are recorded
STEPS_PER_SENDING = 48  # five seconds of steps of 0.1 s
NUM_SENDINGS = 10
SETTINGS = {
    "run": "telemetry-threads",
    "rollout": {"num_groups": 4, "group_size": 8},
    "training": {"learning_rate": 0.0},
    "schedule": {"num_steps": 4, "max_policy_lag_steps": 0, "buffer_depth": 1},
}


class Recorder:
    """A sink that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None:
        """Nothing waits."""

    def begin_close(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="grpo-threads-") as folder:
        home = Home(data=Path(folder) / "data", traces=Path(folder) / "traces")
        stack = build_stack(build_config(SETTINGS), home)
        try:
            found = milliseconds_per_step(stack, home, recorded(stack))
        finally:
            stack.close()
    print("processor time per step, ms:")
    for name, milliseconds in found.items():
        print(f"  {name:28} {milliseconds:.3f}")


def recorded(stack: LocalStack) -> Sequence[Event]:
    """The events of ``NUM_STEPS`` real steps, and a reading of the device."""
    recorder = Recorder()
    telemetry = Telemetry(stack.config.run, [recorder])
    same_steps(stack, telemetry, NUM_STEPS // stack.config.schedule.num_steps)
    with GpuSampler(telemetry, interval_s=3600.0):
        pass
    return recorder.events


def milliseconds_per_step(stack: LocalStack, home: Home, events: Sequence[Event]) -> Mapping[str, float]:
    """Of the thread that emits, of each other one that worked, and of W&B's process."""
    with started_telemetry(stack, home) as telemetry:
        emit(telemetry, events)
        before = processor_s()
        emitting_s = sum(emit(telemetry, events) for _ in range(NUM_SENDINGS))
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in processor_s().items()}
    spent[threading.current_thread().name] = emitting_s
    num_steps = NUM_SENDINGS * STEPS_PER_SENDING
    return {name: 1e3 * seconds / num_steps for name, seconds in sorted(spent.items()) if seconds > 0}


def emit(telemetry: Telemetry, events: Sequence[Event]) -> float:
    """``STEPS_PER_SENDING`` steps, and one sending of their events. Returns the seconds that this thread emitted."""
    start = time.thread_time()
    for _ in range(STEPS_PER_SENDING // NUM_STEPS):
        for event in events:
            telemetry.emit(event.kind, **event.fields)
    spent_s = time.thread_time() - start
    telemetry.flush()
    return spent_s


def processor_s() -> dict[str, float]:
    """Seconds of each thread of this process, and of each process that it started."""
    found = {
        thread.name: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None
    }
    for process in psutil.Process().children(recursive=True):
        found[f"process {process.name()}"] = sum(process.cpu_times()[:2])
    return found


if __name__ == "__main__":
    main()
