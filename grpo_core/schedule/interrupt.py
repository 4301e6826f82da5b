"""Signals that end a run: the step under way, a checkpoint, and then the end.

Ctrl-C may take its time; a second one does not wait. After SIGTERM and SIGHUP there is a grace time, since whoever sent
them will kill. They may come twice (``timeout`` and ``srun`` send two), which changes nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether a run is asked to stop. ``signal`` is the last one that asked for it."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._action: Callable[[], None] | None = None

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Call ``action`` when the request comes, or at once if it is there already. It may be called twice."""
        self._action = action
        try:
            if self.signal is not None:
                action()
            yield
        finally:
            self._action = None

    def set(self, number: signal.Signals) -> None:
        """Ask the run to stop."""
        self.signal = number
        if self._action is not None:
            self._action()


@contextmanager
def stop_on_signals(grace_s: float) -> Iterator[StopRequest]:
    """A request that Ctrl-C, SIGTERM and SIGHUP set while the block runs.

    The second Ctrl-C raises KeyboardInterrupt as usual. When the block has not ended ``grace_s`` after the first other
    signal, the process ends with exit code 128 + signal, wherever it is. A signal that is ignored, as SIGHUP is under
    ``nohup``, stays ignored. Only the main thread can handle signals; in others nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    deadlines: list[threading.Timer] = []

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        elif not deadlines:
            deadlines.append(_start_deadline(grace_s, signal.Signals(number)))
        request.set(signal.Signals(number))

    handled = [number for number in _SIGNALS if before[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number in handled:
            signal.signal(number, before[number])
        for deadline in deadlines:
            deadline.cancel()


def interruption(number: int) -> BaseException:
    """What signal ``number`` raises where nothing is saved: the process ends with exit code 128 + ``number``."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def _start_deadline(grace_s: float, number: signal.Signals) -> threading.Timer:
    timer = threading.Timer(grace_s, _end_now, (grace_s, number))
    timer.daemon = True
    timer.start()
    return timer


def _end_now(grace_s: float, number: signal.Signals) -> None:
    """A kill at any moment costs no more than what was done since the last checkpoint, so this one does not either."""
    print(
        f"grpo: stopped, since the step under way did not end within {grace_s:g} s of {number.name} "
        "(schedule.stop_grace_s); --resume goes on from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(128 + number)
