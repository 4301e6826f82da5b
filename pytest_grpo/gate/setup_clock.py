"""The clock of a test's set-up. It stands still while arms are compared, which have a limit of their own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

AGAIN_S = 5.0
"""Code that swallowed the end of its set-up is asked again after so long."""


@dataclass(slots=True)
class SetupClock:
    """An alarm of this process. Where another plugin uses the alarm, or outside of the main thread, it does nothing."""

    _handler: Callable[[int, FrameType | None], NoReturn] | None = None

    def start(self, limit_s: float, end: Callable[[], NoReturn]) -> None:
        """Call ``end`` in ``limit_s`` seconds, unless ``stop`` comes before."""
        is_free = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        if not is_free or threading.current_thread() is not threading.main_thread():
            return

        def handle(number: int, frame: FrameType | None) -> NoReturn:
            end()

        self._handler = handle
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)

    def stop(self) -> None:
        """Without effect where it does not run."""
        if self._is_running():
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._handler = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still."""
        if not self._is_running():
            yield
            return
        left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            yield
        finally:
            if self._is_running() and left_s:
                signal.setitimer(signal.ITIMER_REAL, left_s, AGAIN_S)

    def _is_running(self) -> bool:
        return self._handler is not None and signal.getsignal(signal.SIGALRM) is self._handler
