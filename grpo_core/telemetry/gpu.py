"""Device statistics: NVML samples of every GPU, or the host's statistics without a GPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import psutil

from grpo_core.hardware import cpu_name, open_gpus, read_gpu, throttle_names
from grpo_core.telemetry.events import Telemetry, Value

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A short description of the machine. One with a usable NVIDIA driver is a ``gpu``."""

    name: str
    kind: Literal["cpu", "gpu"]
    driver: str | None
    num_cores: int


def read_device() -> DeviceInfo:
    """The first GPU, or the CPU where there is none."""
    num_cores = psutil.cpu_count() or 1
    with open_gpus() as handles:
        if handles:
            import pynvml

            name = read_gpu(partial(pynvml.nvmlDeviceGetName, next(iter(handles.values())))) or "NVIDIA GPU"
            return DeviceInfo(name, "gpu", read_gpu(pynvml.nvmlSystemGetDriverVersion), num_cores)
    return DeviceInfo(cpu_name(), "cpu", None, num_cores)


class GpuSampler:
    """Emits ``gpu_stats`` at the start, every ``interval_s`` and at the end. Without a GPU they describe the host."""

    def __init__(self, telemetry: Telemetry, interval_s: float = 1.0) -> None:
        self.note: str | None = None  # why the samples are of the host; set from the start on
        self._telemetry = telemetry
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-sampler", daemon=True)

    def __enter__(self) -> GpuSampler:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with open_gpus() as handles:
                if not handles:
                    self.note = "no NVIDIA GPU found: gpu_stats show this host's CPU and memory"
                    logger.info(self.note)
                    psutil.cpu_percent()  # the first reading has nothing to compare with
                    self._stop.wait(0.05)
                self._sample(handles)
                self._started.set()
                while not self._stop.wait(self._interval_s):
                    self._sample(handles)
                self._sample(handles)
        finally:
            self._started.set()  # also after an error: ``__enter__`` waits for the first sample

    def _sample(self, handles: Mapping[int, Any]) -> None:
        if not handles:
            self._telemetry.emit("gpu_stats", **_host_stats())
        for index, handle in handles.items():
            self._telemetry.emit("gpu_stats", **_gpu_stats(index, handle))


def _gpu_stats(index: int, handle: Any) -> dict[str, Value]:
    import pynvml

    utilization = read_gpu(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    memory = read_gpu(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    power_mw = read_gpu(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    temperature = read_gpu(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    throttle = read_gpu(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return {
        "source": "nvml",
        "device_index": index,
        "device_name": read_gpu(lambda: pynvml.nvmlDeviceGetName(handle)),
        "utilization_percent": None if utilization is None else float(utilization.gpu),
        "memory_used_bytes": None if memory is None else int(memory.used),
        "memory_total_bytes": None if memory is None else int(memory.total),
        "power_watts": None if power_mw is None else power_mw / 1000,
        "temperature_celsius": None if temperature is None else float(temperature),
        "sm_clock_mhz": read_gpu(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        "throttle_reasons": None if throttle is None else "|".join(throttle_names(throttle)),
    }


def _host_stats() -> dict[str, Value]:
    return {
        "source": "host",
        "device_index": 0,
        "device_name": cpu_name(),
        "utilization_percent": psutil.cpu_percent(),
        "memory_used_bytes": psutil.Process().memory_info().rss,
        "memory_total_bytes": psutil.virtual_memory().total,
        "power_watts": None,
        "temperature_celsius": None,
        "sm_clock_mhz": None,
        "throttle_reasons": None,
    }
