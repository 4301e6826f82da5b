"""A hub on the loopback with one data set, as the package ``datasets`` reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

REVISION = "5" * 40


class Hub(HTTPServer):
    """Has ``files`` as the data set ``name``, and nothing else. ``asked`` are the paths that were asked for."""

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.files = files
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, hub = self.path.partition("?")[0], self.server
        assert isinstance(hub, Hub)
        hub.asked.append(path)
        name, files = hub.name, hub.files
        if path in (f"/api/datasets/{name}", f"/api/datasets/{name}/revision/{REVISION}"):
            listed = [{"rfilename": file} for file in files]
            self._answer_json({"id": name, "sha": REVISION, "private": False, "tags": [], "siblings": listed})
        elif path.startswith(f"/api/datasets/{name}/tree/"):
            folder = path.partition(REVISION)[2].strip("/")
            self._answer_json([] if folder else [_entry(file, content) for file, content in files.items()])
        elif path.startswith(f"/datasets/{name}/resolve/") and path.rpartition("/")[2] in files:
            content = files[path.rpartition("/")[2]]
            self._answer(content, {"ETag": f'"{_entry("", content)["oid"]}"', "X-Repo-Commit": REVISION})
        else:
            is_file = path.startswith(f"/datasets/{name}/")
            self._answer(b"", {"X-Error-Code": "EntryNotFound" if is_file else "RepoNotFound"}, status=404)

    do_HEAD = do_GET

    def _answer_json(self, value: object) -> None:
        self._answer(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, body: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": path}
