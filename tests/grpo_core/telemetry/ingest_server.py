"""A loopback server that speaks Axiom's ingest endpoint."""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.loopback import answer, serving


class IngestServer(ThreadingHTTPServer):
    """Checks what it gets as Axiom does, and keeps it.

    ``answer`` is a status to give instead of taking events, or the text of an answer with status 200.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _IngestHandler)
        self.answer: int | str | None = None
        self.retry_after = ""
        self.max_events = 10**6
        self.num_refused = 0
        self.has_times = True  # of the events that it refuses
        self.num_requests = 0
        self.events: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.got_events = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _IngestHandler(BaseHTTPRequestHandler):
    server: IngestServer  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.num_requests += 1
        self.server.paths.append(self.path)
        if self.headers["Authorization"] != "Bearer xaat-secret":
            return self._reply(403, {"code": 403, "message": "forbidden"})
        if isinstance(self.server.answer, str):
            return self._write(200, self.server.answer.encode())
        if self.server.answer is not None:
            return self._reply(self.server.answer, {"message": "out of order"})
        if (self.headers["Content-Type"], self.headers["Content-Encoding"]) != ("application/x-ndjson", "gzip"):
            return self._reply(415, {"message": "only gzipped ndjson"})
        events = [json.loads(line) for line in gzip.decompress(body).decode().split("\n")]
        if len(events) > self.server.max_events:
            return self._reply(413, {"message": "too large"})
        taken = events[self.server.num_refused :]
        self.server.events += taken
        refused = [event["_time"] if self.server.has_times else "" for event in events[: self.server.num_refused]]
        failures = [{"timestamp": time, "error": "bad field"} for time in refused]
        self._reply(
            200,
            {
                "ingested": len(taken),
                "failed": len(failures),
                "failures": failures,
                "processedBytes": len(body),
                "blocksCreated": 0,
                "walLength": len(taken),
            },
        )
        self.server.got_events.set()

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        self._write(status, json.dumps(content).encode())

    def _write(self, status: int, body: bytes) -> None:
        answer(self, status, "application/json", body, self.server.retry_after)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def running_server() -> AbstractContextManager[IngestServer]:
    return serving(IngestServer())
