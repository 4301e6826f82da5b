"""Signals as a terminal starts a process with them: ``nohup`` and background jobs ignore some."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

DEFAULTS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@pytest.fixture(autouse=True)
def signals_of_a_terminal() -> Iterator[None]:
    """Of this process, and of those that it starts."""
    ignored = [number for number in DEFAULTS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, DEFAULTS[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
