"""The server on the loopback, as any OpenAI client asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from grpo_core.environments.agents.endpoint import Call, Endpoint, Inbox

ASKED = {"model": "policy", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    opened = Endpoint()
    yield opened
    opened.close()


def post(url: str, body: object) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with urlopen(Request(url, content, {"Content-Type": "application/json"})) as answer:
        return answer.read()


def asked(base_url: str, inbox: Inbox, body: object, answer: str | None) -> tuple[Call, list[bytes | HTTPError]]:
    """The call that ``body`` makes, and what its program gets for ``answer``."""
    got: list[bytes | HTTPError] = []

    def ask() -> None:
        try:
            got.append(post(f"{base_url}/chat/completions", body))
        except HTTPError as error:
            error.read()
            got.append(error)

    program = threading.Thread(target=ask)
    program.start()
    call = inbox.get(timeout=60)
    assert isinstance(call, Call)
    call.answer(answer)
    program.join(60)
    return call, got


def test_a_call_waits_for_its_answer(endpoint: Endpoint) -> None:
    inbox: Inbox = SimpleQueue()
    call, (got,) = asked(endpoint.open(inbox), inbox, ASKED, "Hello to you")
    assert call.messages == ASKED["messages"]
    assert isinstance(got, bytes)
    choice = json.loads(got)["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Hello to you"}
    assert choice["finish_reason"] == "stop"


def test_parts_of_text_are_one_text(endpoint: Endpoint) -> None:
    inbox: Inbox = SimpleQueue()
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    body = {"messages": [{"role": "user", "content": parts}], "n": 1}
    call, _ = asked(endpoint.open(inbox), inbox, body, "Hello to you")
    assert call.messages == ASKED["messages"]


def test_a_stream_has_the_whole_answer(endpoint: Endpoint) -> None:
    inbox: Inbox = SimpleQueue()
    _, (got,) = asked(endpoint.open(inbox), inbox, {**ASKED, "stream": True}, '<tool_call>{"name": "f"}</tool_call>')
    assert isinstance(got, bytes)
    *events, last = [line.removeprefix("data: ") for line in got.decode().split("\n\n") if line]
    assert last == "[DONE]"
    first = json.loads(events[0])["choices"][0]["delta"]
    assert first["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert json.loads(events[1])["choices"][0]["finish_reason"] == "tool_calls"


def test_what_is_no_call_is_refused(endpoint: Endpoint) -> None:
    inbox: Inbox = SimpleQueue()
    base_url = endpoint.open(inbox)
    for url, body, status in (
        (f"{base_url}/chat/completions", b"{", 400),
        (f"{base_url}/chat/completions", {"model": "policy"}, 400),
        (f"{base_url}/chat/completions", {**ASKED, "messages": []}, 400),
        (f"{base_url}/chat/completions", {**ASKED, "messages": ["Hello"]}, 400),
        (f"{base_url}/chat/completions", {**ASKED, "tools": ["add"]}, 400),
        (f"{base_url}/chat/completions", {**ASKED, "n": 2}, 400),
        (f"{base_url}/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400),
        (f"{base_url}/chat/completions", {"messages": [{"role": "user", "content": 5}]}, 400),
        (f"{base_url}/embeddings", ASKED, 404),
        (base_url.replace("/v1", "0/v1") + "/chat/completions", ASKED, 404),
    ):
        with pytest.raises(HTTPError) as raised:
            post(url, body)
        assert raised.value.code == status
        raised.value.close()
    _, (gone,) = asked(base_url, inbox, ASKED, None)
    assert isinstance(gone, HTTPError)
    assert gone.code == 410
    gone.close()
    endpoint.forget(base_url)
    with pytest.raises(HTTPError) as late:
        post(f"{base_url}/chat/completions", ASKED)
    late.value.close()
