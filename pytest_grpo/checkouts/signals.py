"""What a signal does while there is something to clean up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """In the block SIGTERM and SIGHUP raise KeyboardInterrupt, unless this process handles or ignores them itself."""
    untouched = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    with _handlers(dict.fromkeys(untouched, signal.default_int_handler)):
        yield


def finish(clean_up: Callable[[], None]) -> None:
    """Run ``clean_up``, which may run twice, to its end, whatever signals come."""
    try:
        with _uninterrupted():
            clean_up()
    except KeyboardInterrupt:  # from a signal that came before they were held off
        with _uninterrupted():
            clean_up()
        raise


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """In the block Ctrl-C, SIGTERM and SIGHUP do nothing."""
    known = [number for number in (signal.SIGINT, *_ENDING) if signal.getsignal(number) is not None]
    with _handlers(dict.fromkeys(known, signal.SIG_IGN)):
        yield


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return
    before: dict[signal.Signals, Any] = {}
    try:
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
