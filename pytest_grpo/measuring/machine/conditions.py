"""Machine conditions while a gate sampled: clock rates, throttling, and cores used by other processes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import psutil

from pytest_grpo.measuring.machine.cpu_use import CpuUse
from pytest_grpo.types import Conditions

_SET_BY_USER = "applications_clocks"  # a setting, which explains no difference between two samples
_SLOWS_DOWN = {"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"}
"""These come and go. A power cap (``sw_power_cap``) holds all the time on a busy GPU."""


@dataclass(slots=True)
class Watch:
    """Records conditions since its creation."""

    _start: CpuUse

    @classmethod
    def start(cls) -> Watch:
        return cls(CpuUse.read())

    def cores_of_others(self) -> float | None:
        """The mean number of cores that others used; None where the machine does not tell."""
        now = CpuUse.read()
        others_s, elapsed_s = now.others_since(self._start), now.at_s - self._start.at_s
        if others_s is None:
            return None
        return others_s / elapsed_s if elapsed_s > 0 else 0.0

    def conditions(self, *, with_gpu: bool, problem: str = "") -> Conditions:
        frequency = psutil.cpu_freq()
        cpu_mhz = frequency.current if frequency is not None and frequency.current > 0 else None
        others = self.cores_of_others()
        shown = None if others is None else round(others, 3)
        if not with_gpu:
            return Conditions(cores_of_others=shown, cpu_mhz=cpu_mhz, problem=problem)
        sm_mhz, temperature_c, reasons = _read_gpus()
        return Conditions(shown, cpu_mhz, sm_mhz, temperature_c, reasons, problem)


def throttle_reasons() -> tuple[str, ...]:
    """What slows a GPU down now and will not for ever: heat, and the brakes of the power supply."""
    return tuple(reason for reason in _read_gpus()[2] if reason in _SLOWS_DOWN)


def _read_gpus() -> tuple[float | None, float | None, tuple[str, ...]]:
    """The lowest SM clock and the highest temperature of all GPUs, and what throttles one. None where no GPU says."""
    from grpo_core.hardware import open_gpus, read_gpu, throttle_names

    with open_gpus() as gpus:
        if not gpus:
            return None, None, ()
        import pynvml

        clocks = [read_gpu(partial(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_SM)) for gpu in gpus.values()]
        temperatures = [
            read_gpu(partial(pynvml.nvmlDeviceGetTemperature, gpu, pynvml.NVML_TEMPERATURE_GPU))
            for gpu in gpus.values()
        ]
        bits = [read_gpu(partial(pynvml.nvmlDeviceGetCurrentClocksEventReasons, gpu)) or 0 for gpu in gpus.values()]
        reasons = dict.fromkeys(reason for each in bits for reason in throttle_names(each))
        return (
            min((float(clock) for clock in clocks if clock is not None), default=None),
            max((float(temperature) for temperature in temperatures if temperature is not None), default=None),
            tuple(reason for reason in reasons if reason != _SET_BY_USER),
        )
