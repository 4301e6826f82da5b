from __future__ import annotations

import subprocess
import sys

import pynvml

from grpo_core.hardware import cpu_name, open_gpus, read_gpu, throttle_names


def test_throttle_reasons_have_names_and_idling_is_none() -> None:
    assert throttle_names(0) == ()
    assert throttle_names(pynvml.nvmlClocksEventReasonGpuIdle) == ()
    both = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    assert throttle_names(both) == ("sw_power_cap", "hw_thermal")


def test_gpus_have_handles_while_nvml_is_open() -> None:
    with open_gpus() as gpus:
        assert list(gpus) == sorted(gpus)
        assert all(read_gpu(lambda handle=handle: pynvml.nvmlDeviceGetName(handle)) for handle in gpus.values())


def test_a_reading_that_the_gpu_refuses_is_none() -> None:
    def refuse() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    assert read_gpu(refuse) is None
    assert read_gpu(lambda: 3) == 3


def test_the_cpu_has_a_name() -> None:
    assert cpu_name().strip()


def test_it_loads_nothing_heavy() -> None:
    heavy = "('torch', 'numpy', 'pydantic', 'pynvml', 'transformers')"
    script = f"import sys, grpo_core.hardware; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
