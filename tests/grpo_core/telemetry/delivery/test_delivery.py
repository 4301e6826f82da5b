"""From the file to a service: what is sent, when, and what is known about it later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from grpo_core.telemetry.delivery.delivery import MAX_BATCH_EVENTS, DeliveryError
from grpo_core.telemetry.events import Event, Record, Telemetry
from grpo_core.telemetry.jsonl import JsonlSink, read_page
from tests.grpo_core.telemetry.delivery.services import Service, delivery_to, emit


def write(folder: Path, numbers: range, *, mode: str = "a") -> Path:
    path = folder / "r.jsonl"
    with path.open(mode) as file:
        for number in numbers:
            event = Event("rollout", float(number), "r", f"session-{number}", {"batch_index": number})
            file.write(json.dumps(event.record()) + "\n")
    return path


def test_batches_are_bounded(tmp_path: Path) -> None:
    service = Service()
    delivery = delivery_to(service, tmp_path)
    write(tmp_path, range(2 * MAX_BATCH_EVENTS + 5))
    assert delivery.num_waiting == 2 * MAX_BATCH_EVENTS + 5
    while delivery.send_next():
        pass

    assert list(map(len, service.batches)) == [MAX_BATCH_EVENTS, MAX_BATCH_EVENTS, 5]
    assert delivery.num_waiting == 0


def test_what_was_written_before_a_service_was_known_is_not_its(tmp_path: Path) -> None:
    write(tmp_path, range(5))
    service = Service()
    delivery = delivery_to(service, tmp_path)
    write(tmp_path, range(5, 7))
    while delivery.send_next():
        pass

    assert service.numbers == [5, 6]


def test_a_later_process_goes_on_where_this_one_stopped(tmp_path: Path) -> None:
    service = Service()
    first = delivery_to(service, tmp_path)
    write(tmp_path, range(3))
    assert first.send_next()
    write(tmp_path, range(3, 5))
    second = delivery_to(service, tmp_path)
    assert second.num_waiting == 2
    assert second.send_next()

    assert service.batches == [[0, 1, 2], [3, 4]]


def test_nothing_is_sent_without_events(tmp_path: Path) -> None:
    service = Service()
    assert not delivery_to(service, tmp_path).send_next()
    assert service.num_opened == 0


DAMAGED = [b"", b"{", b"[]", b"null", b'{"position": "x"}', b'{"position": 1e999, "head": ""}', b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_position_sends_again(content: bytes, tmp_path: Path) -> None:
    """With the same ids, so that nothing counts twice."""
    service = Service()
    delivery = delivery_to(service, tmp_path)
    write(tmp_path, range(3))
    assert delivery.send_next()
    (tmp_path / "sent" / "r.service.json").write_bytes(content)
    again = delivery_to(service, tmp_path)
    assert again.send_next()

    assert service.numbers == [0, 1, 2, 0, 1, 2]
    assert len(set(service.ids)) == 3


def test_a_file_that_was_replaced_is_sent_from_its_start(tmp_path: Path) -> None:
    service = Service()
    delivery = delivery_to(service, tmp_path)
    write(tmp_path, range(3))
    assert delivery.send_next()
    (tmp_path / "r.jsonl").unlink()
    assert not delivery.send_next()
    write(tmp_path, range(10, 20))
    assert delivery_to(service, tmp_path).send_next()

    assert service.numbers == [0, 1, 2, *range(10, 20)]


@pytest.mark.parametrize("num_sent", [0, 150, 400])
def test_events_are_sent_from_a_full_file_as_well(num_sent: int, tmp_path: Path) -> None:
    """The file is full after about 400 of 600 events, and is the older one then."""
    service = Service()
    delivery = delivery_to(service, tmp_path)
    with Telemetry("r", [JsonlSink(tmp_path / "r.jsonl", max_bytes=1 << 17)]) as telemetry:
        emit(telemetry, range(num_sent))
        while delivery.send_next():
            pass
        emit(telemetry, range(num_sent, 600))
    assert (tmp_path / "r.jsonl.1").stat().st_size <= 1 << 16
    assert 0 < (tmp_path / "r.jsonl").stat().st_size <= 1 << 16
    later = delivery_to(service, tmp_path)
    assert later.num_waiting == 600 - num_sent
    while later.send_next():
        pass

    assert service.numbers == list(range(600))


def test_what_the_service_missed_is_bounded_too(tmp_path: Path) -> None:
    service = Service()
    delivery = delivery_to(service, tmp_path)
    with Telemetry("r", [JsonlSink(tmp_path / "r.jsonl", max_bytes=1 << 14)]) as telemetry:
        emit(telemetry, range(1000))
    while delivery.send_next():
        pass

    assert 30 < len(service.numbers) < 120
    assert service.numbers == list(range(1000 - len(service.numbers), 1000))


def test_a_new_service_gets_nothing_of_a_file_that_is_full(tmp_path: Path) -> None:
    with Telemetry("r", [JsonlSink(tmp_path / "r.jsonl", max_bytes=1 << 14)]) as telemetry:
        emit(telemetry, range(100))
    (tmp_path / "r.jsonl").write_bytes(b"")
    service = Service()
    delivery = delivery_to(service, tmp_path)
    write(tmp_path, range(3))
    while delivery.send_next():
        pass

    assert service.numbers == [0, 1, 2]


def test_an_event_that_is_half_written_waits(tmp_path: Path) -> None:
    service = Service()
    delivery = delivery_to(service, tmp_path)
    path = write(tmp_path, range(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert delivery.send_next()
    assert not delivery.send_next()
    path.write_bytes(whole)
    assert delivery.send_next()

    assert service.batches == [[0], [1]]


def test_lines_that_are_no_events_are_left_out(tmp_path: Path) -> None:
    service = Service()
    delivery = delivery_to(service, tmp_path)
    path = write(tmp_path, range(1))
    with path.open("ab") as file:
        file.write(b'\n{"kind": "roll\n[1]\nnull\n{"no": "kind"}\n' + b"[" * 100_000 + b"\n\xff\xfe\n")
    write(tmp_path, range(1, 2))
    while delivery.send_next():
        pass

    assert service.numbers == [0, 1]
    assert delivery.num_waiting == 0


def test_a_line_without_an_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"x" * (9 << 20) + b"\n")
    write(tmp_path, range(1))
    position, found = 0, []
    with path.open("rb") as file:
        while (page := read_page(file, position, 10)).end > position:
            found += page.records
            position = page.end

    assert [record["batch_index"] for record in found] == [0]


def test_a_request_that_is_too_large_is_sent_in_parts(tmp_path: Path) -> None:
    class Narrow(Service):
        def send(self, records: Sequence[Record]) -> int:
            if len(records) > 3 or any(record["batch_index"] == 6 for record in records):
                raise DeliveryError("too large", is_refusal=True)
            return super().send(records)

    service = Narrow()
    delivery = delivery_to(service, tmp_path)
    write(tmp_path, range(10))
    while delivery.send_next():
        pass

    assert service.numbers == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert delivery.num_refused == 1


def test_a_file_that_becomes_full_while_it_is_sent_is_sent_whole(tmp_path: Path) -> None:
    """Events are written, and the file gets its other name, between any two steps of the delivery."""
    with Telemetry("r", [JsonlSink(tmp_path / "r.jsonl", max_bytes=1 << 17)]) as telemetry:
        written = 0

        class Busy(Service):
            def send(self, records: Sequence[Record]) -> int:
                nonlocal written
                if written < 5000:
                    emit(telemetry, range(written, written + 100))
                    written += 100
                return super().send(records)

        service = Busy()
        delivery = delivery_to(service, tmp_path)
        emit(telemetry, range(100))
        written = 100
        while delivery.send_next():
            pass

    assert service.numbers == list(range(5000))
