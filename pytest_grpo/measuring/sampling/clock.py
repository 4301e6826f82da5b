"""Clocks that wait for the devices: GPU work is queued and runs after the host call returns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import ModuleType


def start_clock() -> Callable[[], float]:
    """Start timing with all devices idle; the returned function waits for them and returns the seconds.

    The host's clock, because CUDA events see their own stream only. Never imports torch: unless it is loaded, no work
    is queued.
    """
    start = now()
    return lambda: now() - start


def now() -> float:
    """Seconds on the host clock, read after all queued device work is done."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for device in _used_devices(torch):
            torch.cuda.synchronize(device)
    return time.perf_counter()


def _used_devices(torch: ModuleType) -> list[int]:
    """The current device and those with memory of this process. To ask another one would create a context on it."""
    current = torch.cuda.current_device()
    others = (device for device in range(torch.cuda.device_count()) if device != current)
    return [current, *(device for device in others if torch.cuda.memory_reserved(device) > 0)]
