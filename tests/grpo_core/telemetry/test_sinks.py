from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest

from grpo_core.telemetry import Event
from grpo_core.telemetry.background import BackgroundSink, DeliveryError

WAIT_S = 30.0  # how long a test waits for another thread before it fails


class Service:
    """Takes events in memory. It can be held up, and told to fail."""

    name = "service"

    def __init__(self, *, lost_per_batch: int = 0) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_sending = threading.Event()
        self.is_closed = False
        self._lost_per_batch = lost_per_batch

    def open(self) -> None:
        pass

    def send(self, events: Sequence[Event]) -> None:
        self.is_sending.set()
        assert self.may_go_on.wait(WAIT_S)
        self.batches.append([int(event.time_s) for event in events])
        if self._lost_per_batch != 0:
            raise DeliveryError("not today", self._lost_per_batch)

    def close(self) -> None:
        self.is_closed = True


def event(number: int) -> Event:
    return Event("rollout", float(number), "r", {})


def test_every_event_arrives_once_in_order_and_in_bounded_batches() -> None:
    service = Service()
    sink = BackgroundSink(service, max_batch_events=10)
    for number in range(95):
        sink.write(event(number))
    sink.close()

    assert [number for batch in service.batches for number in batch] == list(range(95))
    assert max(map(len, service.batches)) <= 10
    assert service.is_closed
    assert sink.num_lost == 0


def test_an_event_arrives_by_itself_without_flush_or_close() -> None:
    service = Service()
    sink = BackgroundSink(service, max_delay_s=0.05)
    sink.write(event(1))

    assert service.is_sending.wait(WAIT_S)
    sink.close()


def test_flush_returns_when_the_events_are_sent() -> None:
    service = Service()
    sink = BackgroundSink(service, max_delay_s=WAIT_S)
    sink.write(event(1))
    sink.flush()

    assert service.batches == [[1]]
    sink.close()


def test_a_stuck_service_never_blocks_write_and_what_does_not_fit_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.may_go_on.clear()
    sink = BackgroundSink(service, max_queued_events=5, max_batch_events=1)
    sink.write(event(0))
    assert service.is_sending.wait(WAIT_S)
    for number in range(1, 13):  # returns although the service is stuck: 5 are queued, 7 dropped
        sink.write(event(number))

    assert sink.num_lost == 7
    service.may_go_on.set()
    sink.close()
    assert [number for batch in service.batches for number in batch] == list(range(6))
    assert [record.getMessage() for record in caplog.records] == ["service: 7 of 13 events were lost"]


def test_close_gives_up_on_a_stuck_service_and_counts_what_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.may_go_on.clear()
    sink = BackgroundSink(service, max_batch_events=1, close_timeout_s=0.05)
    for number in range(3):
        sink.write(event(number))
    assert service.is_sending.wait(WAIT_S)
    sink.close()

    assert [record.getMessage() for record in caplog.records] == ["service: 3 of 3 events were lost"]
    service.may_go_on.set()


def test_events_that_a_service_refuses_are_lost_and_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sink = BackgroundSink(Service(lost_per_batch=1), max_batch_events=2)
    for number in range(0, 6, 2):
        sink.write(event(number))
        sink.write(event(number + 1))
        sink.flush()
    sink.close()

    assert warnings_in(caplog) == ["service: not today; training goes on, and what it does not take is sent again"]
    assert caplog.records[-1].getMessage() == "service: 3 of 6 events were lost"


class Breaking(Service):
    """Raises ``error`` until it is mended."""

    def __init__(self, error: Exception, *, at_open: bool = False) -> None:
        super().__init__()
        self.error: Exception | None = error
        self.num_calls = 0
        self._at_open = at_open

    def _break(self) -> None:
        self.num_calls += 1
        if self.error is not None:
            raise self.error

    def open(self) -> None:
        if self._at_open:
            self._break()

    def send(self, events: Sequence[Event]) -> None:
        if not self._at_open:
            self._break()
        super().send(events)


ERRORS = [
    (DeliveryError("not today"), "not today"),
    (UnicodeEncodeError("latin-1", "€", 0, 1, "ordinal not in range"), "UnicodeEncodeError: 'latin-1' codec"),
    (ValueError("Invalid URL 'wandb.example': No scheme supplied\nand advice"), "ValueError: Invalid URL"),
    (TypeError(), "TypeError: TypeError"),
]


@pytest.mark.parametrize("at_open", [False, True])
@pytest.mark.parametrize(("error", "warning"), ERRORS)
def test_whatever_a_client_raises_events_arrive_once_the_service_is_back(
    error: Exception, warning: str, at_open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = Breaking(error, at_open=at_open)
    sink = BackgroundSink(service, close_timeout_s=WAIT_S)
    for number in range(3):
        sink.write(event(number))
        sink.flush()  # returns once an attempt has failed
    assert service.num_calls >= 3
    service.error = None
    sink.write(event(3))
    sink.flush()
    sink.close()

    assert [number for batch in service.batches for number in batch] == [0, 1, 2, 3]
    assert (service.is_closed, sink.num_lost) == (True, 0)
    (shown,) = warnings_in(caplog)
    assert shown.startswith(f"service: {warning}")
    assert "\n" not in shown


@pytest.mark.parametrize("at_open", [False, True])
def test_a_service_that_never_comes_back_costs_one_warning_and_no_time(
    at_open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service = Breaking(ValueError("no such host"), at_open=at_open)
    sink = BackgroundSink(service, close_timeout_s=WAIT_S)
    sink.write(event(1))
    sink.flush()
    sink.write(event(2))
    sink.close()

    assert (service.batches, sink.num_lost) == ([], 2)
    assert len(warnings_in(caplog)) == 1
    assert caplog.records[-1].getMessage() == "service: 2 of 2 events were lost"
    assert not sink._thread.is_alive()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
