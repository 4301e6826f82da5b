"""What the machine did while a gate sampled: clocks, throttling, and the cores that others took."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from pytest_grpo.types import Conditions


def cores_of_others_s() -> float:
    """Core seconds that other processes, and other machines on the same host, have used since some fixed moment."""
    machine, own = psutil.cpu_times()._asdict(), psutil.Process().cpu_times()
    idle_s = machine["idle"] + machine.get("iowait", 0.0)
    # Guest time is part of user time already.
    guest_s = machine.get("guest", 0.0) + machine.get("guest_nice", 0.0)
    children_s = own.children_user + own.children_system
    return sum(machine.values()) - guest_s - idle_s - own.user - own.system - children_s


@dataclass(slots=True)
class Watch:
    """Started when it is made; ``conditions`` tells what happened since."""

    _start_s: float
    _used_s: float

    @classmethod
    def start(cls) -> Watch:
        return cls(time.monotonic(), cores_of_others_s())

    def cores_of_others(self) -> float:
        """How many cores others used on average."""
        elapsed_s = time.monotonic() - self._start_s
        return max(0.0, (cores_of_others_s() - self._used_s) / elapsed_s) if elapsed_s > 0 else 0.0

    def conditions(self, *, with_gpu: bool) -> Conditions:
        frequency = psutil.cpu_freq()
        cpu_mhz = frequency.current if frequency is not None and frequency.current > 0 else None
        others = round(self.cores_of_others(), 3)
        if not with_gpu:
            return Conditions(cores_of_others=others, cpu_mhz=cpu_mhz)
        sm_mhz, temperature_c, reasons = _read_gpu()
        return Conditions(others, cpu_mhz, sm_mhz, temperature_c, reasons)


def _read_gpu() -> tuple[float | None, float | None, tuple[str, ...]]:
    """SM clock, temperature and what throttles it, of the first GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, None, ()
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        active = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        return (
            float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
            tuple(name for bit, name in _THROTTLE_REASONS.items() if active & bit),
        )
    except pynvml.NVMLError:
        return None, None, ()
    finally:
        pynvml.nvmlShutdown()


_THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
    0x100: "display clocks",
}
"""NVML's clock event reasons; 0x1 (idle) and 0x2 (clocks set by the user) are no throttling."""
