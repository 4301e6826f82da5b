"""Lets Perfetto's page load a trace from this machine: it asks 127.0.0.1:9001, the only address that it may ask there.

The trace goes from this process to the browser, and to no other machine. Source: perfetto.dev, "Deep linking to the
Perfetto UI".
"""

from __future__ import annotations

import secrets
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from grpo_core.errors import ConfigError

_ORIGIN = "https://ui.perfetto.dev"
_PORT = 9001


class TraceServer:
    """Serves one trace, to Perfetto's page alone, under an address that cannot be guessed.

    Raises:
        ConfigError: another program has the port.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._server = _Server(path)
        except OSError:
            raise ConfigError(
                f"port {_PORT} of 127.0.0.1 is taken, and Perfetto asks no other one; end that program, or open "
                f"{_ORIGIN} and give it {path}"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="trace-server", daemon=True)

    @property
    def url(self) -> str:
        """The page to open in a browser."""
        return f"{_ORIGIN}/#!/?url={self.trace_url}"

    @property
    def trace_url(self) -> str:
        return f"http://127.0.0.1:{_PORT}{self._server.place}"

    def wait_until_loaded(self) -> None:
        """Return when the trace was fetched once."""
        self._server.is_loaded.wait()

    def __enter__(self) -> TraceServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True

    def __init__(self, path: Path) -> None:
        super().__init__(("127.0.0.1", _PORT), _Handler)
        self.path = path
        self.place = f"/{secrets.token_urlsafe(16)}/{path.name}"
        self.is_loaded = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        if self.path != self.server.place or self.headers.get("Origin", _ORIGIN) != _ORIGIN:
            self.send_error(404)
            return
        with self.server.path.open("rb") as file:
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", _ORIGIN)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(self.server.path.stat().st_size))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            shutil.copyfileobj(file, self.wfile)
        self.server.is_loaded.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
