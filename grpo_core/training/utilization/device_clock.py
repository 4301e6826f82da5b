"""How long a device takes for one call."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


@torch.no_grad()
def device_seconds(device: torch.device, call: Callable[[], object]) -> float:
    """How long ``call`` takes: by events of the device on a GPU, else by the wall clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
