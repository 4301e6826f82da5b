"""What the device does: NVML samples of every GPU, or host statistics where there is none."""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import psutil

from grpo_core.telemetry.events import Telemetry, Value

_LOG = logging.getLogger(__name__)
_Reading = TypeVar("_Reading")

_THROTTLE_REASONS = {
    0x002: "applications_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
}  # 0x001 is an idle GPU, which holds nobody back


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The machine in a few words. A machine with a usable NVIDIA driver is a ``gpu``."""

    name: str
    kind: Literal["cpu", "gpu"]
    driver: str | None
    num_cores: int


def read_device() -> DeviceInfo:
    """The first GPU, or the CPU where there is none."""
    num_cores = psutil.cpu_count() or 1
    with _nvml_handles() as handles:
        if handles:
            import pynvml

            name = _reading(partial(pynvml.nvmlDeviceGetName, next(iter(handles.values())))) or "NVIDIA GPU"
            return DeviceInfo(name, "gpu", _reading(pynvml.nvmlSystemGetDriverVersion), num_cores)
    return DeviceInfo(_cpu_name(), "cpu", None, num_cores)


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
            with _nvml_handles() as handles:
                if not handles:
                    self.note = "no NVIDIA GPU found: gpu_stats show this host's CPU and memory"
                    _LOG.info(self.note)
                    psutil.cpu_percent()  # the first reading has nothing to compare with
                    self._stop.wait(0.05)
                self._sample(handles)
                self._started.set()
                while not self._stop.wait(self._interval_s):
                    self._sample(handles)
                self._sample(handles)
        finally:
            self._started.set()  # an error here must not hang who waits for the first sample

    def _sample(self, handles: Mapping[int, object]) -> None:
        if not handles:
            self._telemetry.emit("gpu_stats", **_host_stats())
        for index, handle in handles.items():
            self._telemetry.emit("gpu_stats", **_gpu_stats(index, handle))


@contextmanager
def _nvml_handles() -> Iterator[dict[int, object]]:
    """Every GPU that NVML sees, by its index. Empty without the library, the driver or a GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
        found = True
    except pynvml.NVMLError:
        found = False
    if not found:
        yield {}
        return
    try:
        indices = range(_reading(pynvml.nvmlDeviceGetCount) or 0)
        handles = {index: _reading(partial(pynvml.nvmlDeviceGetHandleByIndex, index)) for index in indices}
        yield {index: handle for index, handle in handles.items() if handle is not None}
    finally:
        pynvml.nvmlShutdown()


def _reading(read: Callable[[], _Reading]) -> _Reading | None:
    """None where this GPU does not support the reading, or has gone."""
    import pynvml

    try:
        return read()
    except pynvml.NVMLError:
        return None


def _gpu_stats(index: int, handle: object) -> dict[str, Value]:
    import pynvml

    utilization = _reading(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    memory = _reading(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    power_mw = _reading(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    temperature = _reading(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    throttle = _reading(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return {
        "source": "nvml",
        "device_index": index,
        "device_name": _reading(lambda: pynvml.nvmlDeviceGetName(handle)),
        "utilization_percent": None if utilization is None else float(utilization.gpu),
        "memory_used_bytes": None if memory is None else int(memory.used),
        "memory_total_bytes": None if memory is None else int(memory.total),
        "power_watts": None if power_mw is None else power_mw / 1000,
        "temperature_celsius": None if temperature is None else float(temperature),
        "sm_clock_mhz": _reading(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        "throttle_reasons": None if throttle is None else throttle_names(throttle),
    }


def throttle_names(bits: int) -> str:
    """The reasons in an NVML bit mask, joined by ``|``; empty when the clocks are free."""
    return "|".join(name for bit, name in _THROTTLE_REASONS.items() if bits & bit)


def _host_stats() -> dict[str, Value]:
    return {
        "source": "host",
        "device_index": 0,
        "device_name": _cpu_name(),
        "utilization_percent": psutil.cpu_percent(),
        "memory_used_bytes": psutil.Process().memory_info().rss,
        "memory_total_bytes": psutil.virtual_memory().total,
        "power_watts": None,
        "temperature_celsius": None,
        "sm_clock_mhz": None,
        "throttle_reasons": None,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() is often empty there
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
