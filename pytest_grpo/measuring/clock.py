"""Clocks that synchronize with the device: GPU work is queued and runs after the host call returns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def start_clock() -> Callable[[], float]:
    """Start timing with the device idle; the returned function waits for the device and returns the seconds.

    On a GPU, CUDA events are used, so a busy host adds no time. Never imports torch: unless it is loaded, no work is
    queued.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        start = time.perf_counter()
        return lambda: time.perf_counter() - start
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()

    def stop() -> float:
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    return stop


def now() -> float:
    """Seconds on the host clock, read after all queued device work is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
