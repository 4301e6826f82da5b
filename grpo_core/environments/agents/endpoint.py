"""An OpenAI-compatible server on 127.0.0.1: a call waits there until the policy has answered it.

Each episode has a base URL of its own, so whatever program plays it, its calls are that episode's turns.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

from grpo_core.environments.agents.messages import as_delta, assistant_message, read_messages
from grpo_core.environments.user_code import described
from grpo_core.types import Message

MODEL = "policy"
_POLL_S = 0.1


class Over:
    """The episode ended; no call follows."""


@dataclass
class Call:
    """A chat completion that a program asked for. ``answer`` is given once."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    is_streamed: bool
    _text: str | None = None
    _answered: threading.Event = field(default_factory=threading.Event)

    def answer(self, text: str | None) -> None:
        """Let the program go on with ``text``; None ends its call with an error."""
        self._text = text
        self._answered.set()

    def wait(self) -> str | None:
        """What the policy answered; None where the episode was given up."""
        self._answered.wait()
        return self._text


Inbox = SimpleQueue[Call | Over]


class Endpoint:
    """Serves until ``close``, in threads that end with the process."""

    def __init__(self) -> None:
        self._inboxes: dict[str, Inbox] = {}
        self._lock = threading.Lock()
        self._later: deque[Callable[[], None]] = deque()
        self._server = _Server(_handler(self._put), self._later)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="endpoint", daemon=True
        )
        self._thread.start()

    def open(self, inbox: Inbox) -> str:
        """A base URL whose calls go into ``inbox``."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._inboxes[key] = inbox
        return f"http://127.0.0.1:{self._server.server_address[1]}/{key}/v1"

    def forget(self, base_url: str) -> None:
        """Refuse the calls there, those that wait in the inbox as well."""
        with self._lock:
            inbox = self._inboxes.pop(base_url.split("/")[-2], None)
            while inbox is not None and not inbox.empty():
                if isinstance(call := inbox.get(), Call):
                    call.answer(None)

    def call_later(self, work: Callable[[], None]) -> None:
        """Have ``work`` done by the server's thread. Takes no lock, so a finalizer may call it."""
        self._later.append(work)

    def _put(self, key: str, call: Call) -> bool:
        """Whether there is an episode of ``key``, which has got ``call`` then."""
        with self._lock:
            inbox = self._inboxes.get(key)
            if inbox is not None:
                inbox.put(call)
            return inbox is not None

    def close(self) -> None:
        """Ends no call: forget each URL before."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], later: deque[Callable[[], None]]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._later = later

    def service_actions(self) -> None:
        while self._later:
            self._later.popleft()()


def _handler(put: Callable[[str, Call], bool]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key, _, route = self.path.lstrip("/").partition("/")
            if route != "v1/chat/completions":
                return self._refuse(HTTPStatus.NOT_FOUND, f"no {route} here; POST /v1/chat/completions of an episode")
            try:
                call = _read(json.loads(body))
            except (ValueError, KeyError, TypeError) as error:
                return self._refuse(HTTPStatus.BAD_REQUEST, f"not a chat completion: {described(error)}")
            if not put(key, call):
                return self._refuse(HTTPStatus.NOT_FOUND, "no episode here: it is over, or was given up")
            text = call.wait()
            if text is None:
                return self._refuse(HTTPStatus.GONE, "the episode was given up")
            if call.is_streamed:
                events = b"".join(b"data: " + part.encode() + b"\n\n" for part in (*_chunks(text), "[DONE]"))
                return self._send(HTTPStatus.OK, "text/event-stream", events)
            return self._send(HTTPStatus.OK, "application/json", json.dumps(_completion(text)).encode())

        def _refuse(self, status: HTTPStatus, message: str) -> None:
            self._send(status, "application/json", json.dumps({"error": {"message": message}}).encode())

        def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Calls are no news."""

    return Handler


def _read(asked: Any) -> Call:
    """Raises ``ValueError``, ``KeyError`` or ``TypeError`` where ``asked`` is no chat completion."""
    if asked.get("n") not in (None, 1):
        raise ValueError(f"n is {asked['n']}, and one answer is given to a call; ask again for another one")
    tools = [dict(tool) for tool in asked.get("tools") or ()]
    return Call(read_messages(asked["messages"]), tools, asked.get("stream") is True)


_FACTS = {"id": "chatcmpl-policy", "created": 0, "model": MODEL}
_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
"""Nothing is counted here: the trajectories have the tokens."""


def _completion(text: str) -> dict[str, Any]:
    message = assistant_message(text)
    choice = {"index": 0, "message": message, "finish_reason": _reason(message), "logprobs": None}
    return {**_FACTS, "object": "chat.completion", "choices": [choice], "usage": _USAGE}


def _chunks(text: str) -> Iterator[str]:
    message = assistant_message(text)
    for part, reason in ((as_delta(message), None), ({}, _reason(message))):
        choice = {"index": 0, "delta": part, "finish_reason": reason}
        yield json.dumps({**_FACTS, "object": "chat.completion.chunk", "choices": [choice]})
    yield json.dumps({**_FACTS, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})


def _reason(message: Mapping[str, Any]) -> str:
    return "tool_calls" if "tool_calls" in message else "stop"
