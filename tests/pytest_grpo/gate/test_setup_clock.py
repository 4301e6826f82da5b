from __future__ import annotations

import signal
import threading

import pytest

from pytest_grpo.gate.setup_clock import AGAIN_S, SetupClock


def test_the_clock_rings_again() -> None:
    clock = SetupClock()
    clock.start(60, pytest.fail)
    try:
        assert signal.getitimer(signal.ITIMER_REAL)[1] == AGAIN_S
    finally:
        clock.stop()


def test_an_alarm_of_another_plugin_is_left_alone() -> None:
    def other(number: int, frame: object) -> None: ...

    clock, before = SetupClock(), signal.signal(signal.SIGALRM, other)
    try:
        clock.start(60, pytest.fail)
        with clock.paused():
            pass
        clock.stop()
        assert signal.getsignal(signal.SIGALRM) is other
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_outside_of_the_main_thread_there_is_no_limit() -> None:
    clock = SetupClock()
    thread = threading.Thread(target=clock.start, args=(60, pytest.fail))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
