"""What thresholds are chosen by: a GPU that this process may use, or the CPU."""

from __future__ import annotations

import functools
import os
from typing import Literal

DeviceProfile = Literal["cpu", "gpu"]


def detect_device_profile() -> DeviceProfile:
    """``gpu`` when NVML sees a device that this process may use. Imports no torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "cpu"
    return "gpu" if _gpu_name() else "cpu"


@functools.cache
def describe_device(profile: DeviceProfile) -> str:
    """One line for people: the profile and what stands behind it."""
    if profile == "gpu":
        return f"gpu {_gpu_name()}".rstrip()
    import platform

    return f"cpu {platform.machine()}, {os.cpu_count()} cores"


def _gpu_name() -> str:
    """Of the first GPU; empty without one."""
    from grpo_core.hardware import open_gpus, read_gpu

    with open_gpus() as gpus:
        if 0 not in gpus:
            return ""
        import pynvml

        return str(read_gpu(lambda: pynvml.nvmlDeviceGetName(gpus[0])) or "")
