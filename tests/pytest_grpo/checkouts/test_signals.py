"""What signals do while there is something to clean up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_grpo.checkouts.signals import ended_as_by_ctrl_c, finish

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_no_signal_stops_a_clean_up() -> None:
    done = []

    def clean_up() -> None:
        for number in NUMBERS:
            os.kill(os.getpid(), number)
        done.append(True)

    finish(clean_up)
    assert done == [True]


def test_a_clean_up_that_a_signal_caught_just_before_is_run_again() -> None:
    done = []

    def clean_up() -> None:
        done.append(True)
        if len(done) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(clean_up)
    assert done == [True, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_end_from_outside_is_as_ctrl_c(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), ended_as_by_ctrl_c():
        os.kill(os.getpid(), number)


def test_own_handlers_are_left() -> None:
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(True))
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with ended_as_by_ctrl_c():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hangup)
    assert called == [True]


def test_threads_have_no_handlers() -> None:
    def work() -> list[str]:
        done = []
        with ended_as_by_ctrl_c():
            finish(lambda: done.append("cleaned"))
        return done

    with ThreadPoolExecutor() as pool:
        assert pool.submit(work).result() == ["cleaned"]
