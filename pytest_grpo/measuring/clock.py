"""Clocks that wait for the device: on a GPU the host is ahead of the work that it queued."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def start_clock() -> Callable[[], float]:
    """Start timing with the device idle; the returned function waits for it and gives the seconds.

    On a GPU its own events are read, so that a busy host adds nothing. Never imports torch: without it there is no
    device to wait for.
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
    """Seconds on a clock that has waited for the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
