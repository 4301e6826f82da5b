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

    def __init__(self, *, open_fails: bool = False, lost_per_batch: int | None = 0) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_sending = threading.Event()
        self.is_closed = False
        self._open_fails = open_fails
        self._lost_per_batch = lost_per_batch

    def open(self) -> None:
        if self._open_fails:
            raise DeliveryError("no such service")

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


@pytest.mark.parametrize(("lost_per_batch", "num_lost"), [(None, 6), (1, 3)])
def test_a_failing_service_is_warned_about_once_and_losses_are_counted(
    lost_per_batch: int | None, num_lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sink = BackgroundSink(Service(lost_per_batch=lost_per_batch), max_batch_events=2)
    for number in range(0, 6, 2):
        sink.write(event(number))
        sink.write(event(number + 1))
        sink.flush()
    sink.close()

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["service: not today; training goes on, and events that it does not take are lost"]
    assert caplog.records[-1].getMessage() == f"service: {num_lost} of 6 events were lost"


def test_a_service_that_cannot_be_opened_loses_everything_quietly(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(open_fails=True)
    sink = BackgroundSink(service)
    sink.write(event(1))
    sink.flush()
    sink.write(event(2))
    sink.close()

    assert (service.batches, service.is_closed, sink.num_lost) == ([], False, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "service: no such service; training goes on, and events that it does not take are lost"
    ]
