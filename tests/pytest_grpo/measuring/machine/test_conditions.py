from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pynvml
import pytest

from grpo_core import hardware
from pytest_grpo.measuring.machine.conditions import Watch, throttle_reasons

BURN = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}])"


def test_work_of_a_process_that_is_nobodys_child_here_is_seen() -> None:
    watch = Watch.start()
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.wait()  # before its child ends, so that the child's CPU time is never inherited by this process
    parent.stdout.readline()
    others = watch.cores_of_others()
    elapsed_s = time.monotonic() - watch._start.at_s
    parent.communicate("\n")
    assert others is not None
    assert others * elapsed_s >= 0.25


def test_conditions_hold_what_the_machine_tells() -> None:
    conditions = Watch.start().conditions(with_gpu=False)
    assert conditions.cores_of_others is not None
    assert conditions.cores_of_others >= 0
    assert conditions.gpu_sm_mhz is None
    assert conditions.gpu_throttle_reasons == ()


def test_all_gpus_are_read_and_each_reading_stands_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs: the first says no clock, the last no temperature."""

    @contextmanager
    def open_gpus() -> Iterator[dict[int, int]]:
        yield {0: 0, 1: 1, 3: 3}

    def reading(values: dict[int, int]) -> Callable[..., int]:
        def read(gpu: int, *_: object) -> int:
            if gpu not in values:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return values[gpu]

        return read

    hot = pynvml.nvmlClocksEventReasonHwThermalSlowdown
    monkeypatch.setattr(hardware, "open_gpus", open_gpus)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", reading({1: 1400, 3: 900}))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", reading({0: 40, 1: 71}))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", reading({0: 0, 3: hot}))

    conditions = Watch.start().conditions(with_gpu=True)

    assert (conditions.gpu_sm_mhz, conditions.gpu_temperature_c) == (900.0, 71.0)
    assert conditions.gpu_throttle_reasons == throttle_reasons() == ("hw_thermal",)
