"""As much of the Hugging Face hub on the loopback as an upload of small files needs."""

from __future__ import annotations

import base64
import json
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.loopback import serving


class HubServer(ThreadingHTTPServer):
    """``created`` and ``files`` are what it was asked to create and what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.is_refusing = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.address}/me/mine", "name": "me/mine"}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.address}/me/mine/commit/0", "commitOid": "0" * 40, "success": True}
        return {}


class _Handler(BaseHTTPRequestHandler):
    server: HubServer  # type: ignore[assignment]

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunks()
        self._answer(self.server.take(self.path, body) if not self.server.is_refusing else None)

    def do_GET(self) -> None:
        found = {"name": "me", "id": "me/mine", "sha": "0" * 40}
        self._answer(found if not self.server.is_refusing else None)

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, content: dict[str, Any] | None) -> None:
        """None refuses."""
        encoded = json.dumps({"error": "no"} if content is None else content).encode()
        self.send_response(403 if content is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: object) -> None:
        pass


def running_hub() -> AbstractContextManager[HubServer]:
    return serving(HubServer())
