"""Machine conditions while a gate sampled: clock rates, throttling, and cores used by other processes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from pytest_grpo.types import Conditions

_SET_BY_USER = "applications_clocks"  # a setting, which explains no difference between two samples


def cores_of_others_s() -> float:
    """CPU seconds used by other processes, and stolen by other virtual machines, since an arbitrary start."""
    machine, own = psutil.cpu_times()._asdict(), psutil.Process().cpu_times()
    idle_s = machine["idle"] + machine.get("iowait", 0.0)
    # Guest time is part of user time already.
    guest_s = machine.get("guest", 0.0) + machine.get("guest_nice", 0.0)
    children_s = own.children_user + own.children_system
    return sum(machine.values()) - guest_s - idle_s - own.user - own.system - children_s


@dataclass(slots=True)
class Watch:
    """Records conditions since its creation."""

    _start_s: float
    _used_s: float

    @classmethod
    def start(cls) -> Watch:
        return cls(time.monotonic(), cores_of_others_s())

    def cores_of_others(self) -> float:
        """The mean number of cores that others used."""
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
    from grpo_core.hardware import open_gpus, read_gpu, throttle_names

    with open_gpus() as gpus:
        if 0 not in gpus:
            return None, None, ()
        import pynvml

        gpu = gpus[0]
        sm_mhz = read_gpu(lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM))
        temperature_c = read_gpu(lambda: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))
        reasons = throttle_names(read_gpu(lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)) or 0)
        return (
            None if sm_mhz is None else float(sm_mhz),
            None if temperature_c is None else float(temperature_c),
            tuple(reason for reason in reasons if reason != _SET_BY_USER),
        )
