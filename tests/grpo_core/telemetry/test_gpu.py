from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from grpo_core.telemetry import Event, Telemetry
from grpo_core.telemetry.columns import FIELDS
from grpo_core.telemetry.gpu import GpuSampler, read_device
from grpo_core.telemetry.jsonl import JsonlSink


def count_gpus() -> int:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    count = pynvml.nvmlDeviceGetCount()
    pynvml.nvmlShutdown()
    return count


NUM_GPUS = count_gpus()
needs_gpu = pytest.mark.skipif(not NUM_GPUS, reason="no NVIDIA GPU")
needs_no_gpu = pytest.mark.skipif(NUM_GPUS > 0, reason="there is a GPU")


def sample(folder: Path, interval_s: float = 60.0) -> tuple[GpuSampler, list[dict[str, Any]]]:
    path = folder / "e.jsonl"
    with Telemetry("r", [JsonlSink(path)]) as telemetry, GpuSampler(telemetry, interval_s) as sampler:
        pass
    return sampler, [json.loads(line) for line in path.read_text().splitlines()]


def test_there_is_a_sample_at_the_start_and_one_at_the_end_with_every_field(tmp_path: Path) -> None:
    _, events = sample(tmp_path)

    assert len(events) >= 2
    assert {event["kind"] for event in events} == {"gpu_stats"}
    assert set(events[0]) - {"_time", "time", "id", "kind", "run"} == set(FIELDS["gpu_stats"])


def test_it_samples_between_start_and_end() -> None:
    class Third:
        def __init__(self) -> None:
            self.num_events = 0
            self.came = threading.Event()

        def write(self, event: Event) -> None:
            self.num_events += 1
            if self.num_events >= 3 * max(1, NUM_GPUS):
                self.came.set()

        def flush(self) -> None: ...

        def begin_close(self) -> None: ...

        def close(self) -> None: ...

    third = Third()
    with Telemetry("r", [third]) as telemetry, GpuSampler(telemetry, interval_s=0.01):
        assert third.came.wait(30)


@needs_no_gpu
def test_without_a_gpu_the_samples_are_of_the_host_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="grpo_core")
    sampler, events = sample(tmp_path)

    host = events[-1]
    assert host["source"] == "host"
    assert 0 <= host["utilization_percent"] <= 100
    assert 1_000_000 < host["memory_used_bytes"] < host["memory_total_bytes"] == psutil.virtual_memory().total
    assert host["power_watts"] is None
    assert sampler.note == "no NVIDIA GPU found: gpu_stats show this host's CPU and memory"
    assert [record.getMessage() for record in caplog.records] == [sampler.note]


@needs_gpu
def test_a_gpu_reports_its_use(tmp_path: Path) -> None:
    sampler, events = sample(tmp_path)

    assert sampler.note is None
    assert events[0]["source"] == "nvml"
    assert 0 < events[0]["memory_used_bytes"] < events[0]["memory_total_bytes"]
    assert 1 < events[0]["power_watts"] < 2000


def test_a_gpu_that_does_not_say_its_memory_says_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that shares the host's memory."""

    @contextmanager
    def open_gpus() -> Iterator[dict[int, str]]:
        yield {0: "gpu"}

    def refuse(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr("grpo_core.telemetry.gpu.open_gpus", open_gpus)
    for name in ("UtilizationRates", "MemoryInfo", "PowerUsage", "CurrentClocksThrottleReasons", "Name"):
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", refuse)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", lambda *_: 51)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", lambda *_: 1200)

    _, events = sample(tmp_path)

    assert {event["memory_used_bytes"] for event in events} == {None}
    assert {(event["temperature_celsius"], event["sm_clock_mhz"]) for event in events} == {(51.0, 1200)}


@needs_no_gpu
def test_the_device_of_a_machine_without_gpu_is_its_cpu() -> None:
    device = read_device()

    assert (device.kind, device.driver, device.num_cores) == ("cpu", None, os.cpu_count())
    assert device.name


@needs_gpu
def test_the_device_of_a_machine_with_gpu_is_the_gpu() -> None:
    device = read_device()

    assert device.kind == "gpu"
    assert device.driver
    assert "NVIDIA" in device.name
