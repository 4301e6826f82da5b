from __future__ import annotations

import json

import pytest

from pytest_grpo.remote.protocol import (
    MAX_MESSAGE_BYTES,
    Decoder,
    Event,
    RemoteLostError,
    Request,
    encode,
    number_texts,
)


def messages_of(event: Event) -> list[str]:
    return list(encode(json.dumps(event)))


@pytest.mark.parametrize("text", ["short", "x" * MAX_MESSAGE_BYTES, '"\\' * MAX_MESSAGE_BYTES, "\u00e4\n" * 700_000])
def test_an_event_of_any_size_arrives_whole_in_small_messages(text: str) -> None:
    event = {"event": "report", "data": text}
    messages = messages_of(event)
    assert all(len(message) <= MAX_MESSAGE_BYTES and "\n" not in message for message in messages)
    assert list(Decoder().decode(messages)) == [event]


def test_a_place_that_begins_again_in_the_middle_of_an_event_is_understood() -> None:
    large = {"event": "report", "data": "x" * (3 * MAX_MESSAGE_BYTES)}
    first, *_ = messages_of(large)
    assert list(Decoder().decode([first, *messages_of({"event": "begun"}), *messages_of(large)])) == [
        {"event": "begun"},
        large,
    ]


def test_a_run_of_which_the_beginning_was_dropped_is_noticed() -> None:
    texts = [json.dumps({"event": "start", "nodeid": name}) for name in "abc"]
    first, second = list(number_texts(texts, "one")), list(number_texts(texts, "two"))
    decoder = Decoder()
    assert len(list(decoder.decode(line for text in first[:2] for line in text.split("\n")))) == 2
    with pytest.raises(RemoteLostError, match="replaced in the middle of the run"):
        list(decoder.decode(second[2].split("\n")))
    assert len(list(Decoder().decode(line for text in [*first, *second] for line in text.split("\n")))) == 6


def test_500_reports_of_100_kb_arrive_in_order() -> None:
    events = [{"event": "report", "number": number, "data": "y" * 100_000} for number in range(500)]
    messages = [message for event in events for message in messages_of(event)]
    assert list(Decoder().decode(messages)) == events


def test_a_request_survives_json() -> None:
    request = Request(2, ("a.py::b[c d]",), ("a.py::b[c d]",), ("-q",), {"a.py": "12"}, "/here", ("{}",), True)
    assert Request.from_json(request.to_json()) == request
