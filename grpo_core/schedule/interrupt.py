"""Ctrl-C: the first one lets the step under way end, the second one does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpo_core.schedule.buffer import RolloutBuffer


@contextmanager
def stop_on_interrupt(stopping: threading.Event, buffer: RolloutBuffer) -> Iterator[None]:
    """The first Ctrl-C asks the loop to stop; the second one raises KeyboardInterrupt as usual."""

    def stop() -> None:
        stopping.set()
        buffer.close()

    with _on_first_interrupt(stop):
        yield


@contextmanager
def ignore_first_interrupt() -> Iterator[None]:
    """For followers: on the first Ctrl-C process 0 makes a last step, saves it and lets them return."""
    with _on_first_interrupt(lambda: None):
        yield


@contextmanager
def _on_first_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Only the main thread can handle signals; in others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, previous)
        action()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
