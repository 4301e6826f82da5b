"""What this machine has: the name of its CPU and, through NVML, its NVIDIA GPUs. Imports nothing heavy."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

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
}
"""NVML's clock event reasons. 0x001, an idle GPU, is no throttling."""


@contextmanager
def open_gpus() -> Iterator[dict[int, Any]]:
    """NVML's handle of every GPU, by its index. Empty without the library, the driver or a GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
        is_open = True
    except pynvml.NVMLError:
        is_open = False
    if not is_open:
        yield {}
        return
    try:
        indices = range(read_gpu(pynvml.nvmlDeviceGetCount) or 0)
        handles = {index: read_gpu(partial(pynvml.nvmlDeviceGetHandleByIndex, index)) for index in indices}
        yield {index: handle for index, handle in handles.items() if handle is not None}
    finally:
        pynvml.nvmlShutdown()


def read_gpu(read: Callable[[], _Reading]) -> _Reading | None:
    """What ``read`` asks NVML, e.g. ``lambda: pynvml.nvmlDeviceGetName(handle)``. None where the GPU cannot say."""
    import pynvml

    try:
        return read()
    except pynvml.NVMLError:
        return None


def throttle_names(bits: int) -> tuple[str, ...]:
    """The reasons in NVML's bit mask ``bits``; empty when nothing slows the clocks."""
    return tuple(name for bit, name in _THROTTLE_REASONS.items() if bits & bit)


@cache
def cpu_name() -> str:
    """The model name of the CPU. Read once: the kernel asks every core for its clock meanwhile."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() is often empty there
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Energy:
    """What the GPUs of this machine have used since their drivers were loaded."""

    def __init__(self, handles: Mapping[int, Any]) -> None:
        """``handles`` are those of ``open_gpus``, which must stay open."""
        self._handles = tuple(handles.values())

    def joules(self) -> float | None:
        """All of them together. None without a GPU, or where one cannot say."""
        import pynvml

        readings_mj = [
            read_gpu(partial(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)) for handle in self._handles
        ]
        known_mj = [reading for reading in readings_mj if reading is not None]
        return sum(known_mj) / 1000 if known_mj and len(known_mj) == len(readings_mj) else None
