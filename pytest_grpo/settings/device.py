"""The device profile, ``cpu`` or ``gpu``, which selects the thresholds."""

from __future__ import annotations

import functools
import os
from typing import Literal

DeviceProfile = Literal["cpu", "gpu"]


def detect_device_profile() -> DeviceProfile:
    """``gpu`` when NVML finds a device that this process may use. Does not import torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "cpu"
    return "gpu" if _gpu_name() else "cpu"


@functools.cache
def describe_device(profile: DeviceProfile) -> str:
    """The profile and its hardware, in one line for reports."""
    if profile == "gpu":
        return f"gpu {_gpu_name()}".rstrip()
    import platform

    return f"cpu {platform.machine()}, {os.cpu_count()} cores"


def _gpu_name() -> str:
    """The name of the first GPU; empty without one."""
    from grpo_core.hardware import open_gpus, read_gpu

    with open_gpus() as gpus:
        if 0 not in gpus:
            return ""
        import pynvml

        return str(read_gpu(lambda: pynvml.nvmlDeviceGetName(gpus[0])) or "")
