"""Ctrl-C: the first one lets the step under way end, the second one does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from grpo_core.schedule.buffer import RolloutBuffer


@contextmanager
def stop_on_interrupt(stopping: threading.Event, buffer: RolloutBuffer) -> Iterator[None]:
    """The first Ctrl-C asks the loop to stop; the second one is the ordinary KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def stop(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, previous)
        stopping.set()
        buffer.close()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
