"""Emitting waits for no service, and an outage is one warning and costs no event."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from grpo_core.telemetry.delivery.background_sink import BackgroundSink
from grpo_core.telemetry.delivery.delivery import Delivery, DeliveryError
from grpo_core.telemetry.events import Telemetry
from grpo_core.telemetry.jsonl import JsonlSink
from tests.grpo_core.telemetry.delivery.services import WAIT_S, Service, delivery_to, emit, telemetry_to

AWAY = DeliveryError("not today")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_event_arrives_once_and_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    with telemetry_to(service, tmp_path) as telemetry:
        emit(telemetry, range(2500))

    assert service.numbers == list(range(2500))
    assert len(set(service.ids)) == 2500
    assert service.is_closed
    assert messages(caplog) == []


def test_an_event_arrives_by_itself_without_flush_or_close(tmp_path: Path) -> None:
    service = Service()
    with telemetry_to(service, tmp_path, max_delay_s=0.05) as telemetry:
        emit(telemetry, range(1))
        assert service.is_sending.wait(WAIT_S)


def test_the_first_events_do_not_wait_for_more(tmp_path: Path) -> None:
    """So that a key that is refused is said while the user still looks."""
    service = Service()
    with telemetry_to(service, tmp_path, max_delay_s=10 * WAIT_S) as telemetry:
        emit(telemetry, range(1))
        assert service.is_sending.wait(WAIT_S)


def test_a_service_that_was_away_is_asked_again_after_its_pause(tmp_path: Path) -> None:
    """The pause is shorter than what events wait for more of them."""
    service = Service()
    with telemetry_to(service, tmp_path, max_delay_s=10 * WAIT_S) as telemetry:
        emit(telemetry, range(1))
        telemetry.flush()
        service.is_sending.clear()
        service.failure = AWAY
        emit(telemetry, range(1, 2))
        telemetry.flush()
        assert service.failed.wait(WAIT_S)
        service.is_sending.clear()
        service.failure = None
        assert service.is_sending.wait(WAIT_S)


def test_services_close_side_by_side(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=WAIT_S)

    class Together(Service):
        def close(self) -> None:
            both.wait()
            super().close()

    services = Together(), Together()
    sinks = [
        BackgroundSink(Delivery(service, tmp_path / "r.jsonl", tmp_path / f"{place}.json"), "")
        for place, service in enumerate(services)
    ]
    with Telemetry("r", [JsonlSink(tmp_path / "r.jsonl"), *sinks]) as telemetry:
        emit(telemetry, range(1))

    assert [service.is_closed for service in services] == [True, True]
    assert [service.numbers for service in services] == [[0], [0]]


def test_flush_returns_when_the_events_are_sent(tmp_path: Path) -> None:
    service = Service()
    with telemetry_to(service, tmp_path, max_delay_s=WAIT_S) as telemetry:
        emit(telemetry, range(1))
        telemetry.flush()
        assert service.batches == [[0]]
        emit(telemetry, range(1, 2))
        telemetry.flush()
        assert service.batches == [[0], [1]]


def test_an_outage_is_one_warning_and_its_events_arrive_when_it_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    with telemetry_to(service, tmp_path) as telemetry:
        emit(telemetry, range(3))
        telemetry.flush()
        service.failure = AWAY
        for number in range(3, 40):
            emit(telemetry, range(number, number + 1))
            telemetry.flush()  # returns although the service is away
        assert service.failed.is_set()
        service.failure = None

    assert service.numbers == list(range(40))
    assert messages(caplog) == ["service: not today; training goes on, and the events wait in their file"]


def test_what_waits_at_the_end_is_one_line_and_is_sent_by_a_later_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    with telemetry_to(service, tmp_path) as telemetry:
        emit(telemetry, range(3))
        telemetry.flush()
        service.failure = AWAY
        emit(telemetry, range(3, 7))
    assert messages(caplog)[1:] == ["service: 4 events are still to be sent; send them with: grpo send --run r"]

    service.failure = None
    with telemetry_to(service, tmp_path) as telemetry:
        emit(telemetry, range(7, 9))
    assert service.numbers == list(range(9))
    assert len(set(service.ids)) == 9


def test_a_service_that_cannot_be_opened_is_opened_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.failure = AWAY
    with telemetry_to(service, tmp_path) as telemetry:
        emit(telemetry, range(2))
        telemetry.flush()
        assert service.num_opened == 0
        service.failure = None

    assert (service.num_opened, service.numbers) == (1, [0, 1])
    assert len(messages(caplog)) == 1


def test_a_service_that_says_when_is_not_asked_before(tmp_path: Path) -> None:
    """Not even when the run ends."""
    service = Service()
    service.failure = DeliveryError("too many requests", retry_after_s=1000)
    with telemetry_to(service, tmp_path) as telemetry:
        emit(telemetry, range(2))
        telemetry.flush()
        service.failure = None
        emit(telemetry, range(2, 4))
        telemetry.flush()

    assert service.numbers == []
    assert delivery_to(service, tmp_path).num_waiting == 4


def test_a_stuck_service_holds_up_neither_write_nor_close(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.may_go_on.clear()
    telemetry = telemetry_to(service, tmp_path, max_delay_s=0.01, close_timeout_s=0.05)
    emit(telemetry, range(1))
    assert service.is_sending.wait(WAIT_S)
    emit(telemetry, range(1, 13))
    telemetry.close()

    assert messages(caplog) == ["service: 13 events are still to be sent; send them with: grpo send --run r"]
    service.may_go_on.set()


def test_what_nobody_foresaw_is_one_warning_and_the_next_try_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a client's bug in each of its calls; the thread lives on, and no flush waits for it."""

    class Broken(Service):
        def open(self) -> None:
            super().open()
            if self.num_opened == 1:
                raise RuntimeError("a bug\nwith a traceback")

        def close(self) -> None:
            raise KeyError("done")

    service = Broken()
    with telemetry_to(service, tmp_path) as telemetry:
        emit(telemetry, range(2))
        telemetry.flush()
        assert service.numbers == []

    assert service.numbers == [0, 1]
    assert messages(caplog) == [
        "service: its client failed with RuntimeError: a bug; training goes on, and the events wait in their file",
        "service: its client failed with KeyError: 'done'",
    ]


def test_what_close_says_of_the_service_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Hesitant(Service):
        def close(self) -> None:
            raise DeliveryError("it is all here; wandb sync sends it")

    with telemetry_to(Hesitant(), tmp_path) as telemetry:
        emit(telemetry, range(1))

    assert messages(caplog) == ["service: it is all here; wandb sync sends it"]
