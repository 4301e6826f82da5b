"""A long run with a swap of weights at every step: its memory, files and threads stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from bench.crash_study.runs import Case, events

SAMPLE_S = 1.0
NUM_FIRST_STEPS = 30
"""Until then caches fill: the engine's, the adapters', the allocator's."""
MAX_GROWTH = 0.02
MAX_GROWTH_BYTES = 16 << 20
"""What the allocator may take more between the second and the last quarter of a soak, beside its share."""

MAX_PASSING = 2
"""Files and threads that come and go with a batch or a version. A leak has one for each: hundreds."""


@dataclass(frozen=True, slots=True)
class Soak:
    """Medians of the second and of the last quarter; the first one warms up."""

    num_steps: int
    memory_mib: tuple[float, float]
    files: tuple[float, float]
    threads: tuple[float, float]
    disk_mib: tuple[float, float]  # of the home, without events


def study_soak(case: Case, duration_s: float, model: Path, folder: Path) -> Soak:
    """Train for ``duration_s`` after the first steps, however long a busy machine takes for them.

    Raises:
        AssertionError: something grows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = psutil.Popen(
        [sys.executable, "-m", "grpo_core.cli", *case.arguments(model), "--steps", "1000000000"],
        env={**os.environ, "GRPO_HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    samples: list[tuple[float, float, float, float]] = []
    try:
        while num_steps(folder) < NUM_FIRST_STEPS:
            assert process.poll() is None, process.stderr.read()[-2000:]
            time.sleep(SAMPLE_S)
        ends = time.monotonic() + duration_s
        while time.monotonic() < ends:
            assert process.poll() is None, process.stderr.read()[-2000:]
            memory, files, threads = process.memory_info().rss, len(process.open_files()), process.num_threads()
            samples.append((memory / 2**20, files, threads, disk_mib(folder)))
            time.sleep(SAMPLE_S)
    finally:
        process.terminate()
        process.wait(120)
    quarter = len(samples) // 4
    second, last = zip(*samples[quarter : 2 * quarter], strict=True), zip(*samples[-quarter:], strict=True)
    memory, files, threads, disk = ((median(before), median(after)) for before, after in zip(second, last, strict=True))
    assert memory[1] - memory[0] < max(MAX_GROWTH * memory[0], MAX_GROWTH_BYTES / 2**20), f"memory grows: {memory} MiB"
    assert files[1] <= files[0] + MAX_PASSING, f"open files grow: {files}"
    assert threads[1] <= threads[0] + MAX_PASSING, f"threads grow: {threads}"
    return Soak(num_steps(folder), memory, files, threads, disk)


def num_steps(folder: Path) -> int:
    """By the number of the last one: in an hour the file of events may be full, and another one begins."""
    return max((event["step"] for event in events(folder) if event["kind"] == "train_step"), default=0)


def disk_mib(folder: Path) -> float:
    """Without events. The run removes files and folders meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += 0 if ".jsonl" in name else os.path.getsize(os.path.join(root, name))
    return total / 2**20
