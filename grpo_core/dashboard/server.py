"""The page's server: files of the page, JSON for scripts, and a stream of views for each page that is open."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from grpo_core.dashboard.access import Access
from grpo_core.dashboard.views import Version, Views, encoded
from grpo_core.home import Home
from grpo_core.web.addresses import base_url, listen
from grpo_core.web.server import make_server

_PAGE = Path(__file__).with_name("page")
_INTERVAL_S = 0.4
_HEARTBEAT_S = 10.0
_MAX_STREAMED_RUNS = 4

View = Callable[[Version], tuple[Version, Any]]
"""The version that was sent last -> the version now, and the view; None in its place when it is the same."""


def make_app(home: Home, token: str | None = None, is_closing: Callable[[], bool] = lambda: False) -> Starlette:
    """The application. With ``token`` only who has it may read. Streams end when ``is_closing``."""
    views = Views(home)

    async def index(_: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    async def runs(_: Request) -> Response:
        return _json((await run_in_threadpool(views.runs))[1])

    async def run(request: Request) -> Response:
        _, view = await run_in_threadpool(views.run, request.path_params["name"])
        return _json(view, 200 if view is not None and view["line"] is not None else 404)

    async def samples(request: Request) -> Response:
        found = await run_in_threadpool(views.samples, request.path_params["name"])
        return _json(found if found is not None else {"groups": [], "note": "There is no such run."})

    async def advice(request: Request) -> Response:
        found = await run_in_threadpool(views.advice, request.path_params["name"])
        return _json(found if found is not None else {"complaints": [], "shares": [], "note": "There is no such run."})

    async def verdicts(_: Request) -> Response:
        return _json((await run_in_threadpool(views.verdicts))[1])

    async def stream(request: Request) -> Response:
        names = request.query_params.getlist("run")[:_MAX_STREAMED_RUNS]
        shown: dict[str, View] = {f"run:{name}": partial(views.run, name) for name in names}
        if not names:
            is_verdicts = request.query_params.get("view") == "verdicts"
            shown = {"verdicts": views.verdicts} if is_verdicts else {"runs": views.runs}
        return StreamingResponse(_stream(shown, is_closing), media_type="text/event-stream")

    routes = [
        Route("/", index),
        Route("/api/runs", runs),
        Route("/api/runs/{name}", run),
        Route("/api/runs/{name}/samples", samples),
        Route("/api/runs/{name}/advice", advice),
        Route("/api/verdicts", verdicts),
        Route("/api/stream", stream),
        Mount("/page", StaticFiles(directory=_PAGE)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Access, token=token)])


def _json(content: Any, status_code: int = 200) -> Response:
    return Response(encoded(content), status_code, media_type="application/json")


async def _stream(shown: dict[str, View], is_closing: Callable[[], bool]) -> AsyncIterator[str]:
    """Server-sent events: each view when it has changed, looked at some times a second."""
    seen: dict[str, Version] = {name: None for name in shown}
    silent_s = 0.0
    yield "retry: 1000\n\n"
    while not is_closing():
        for name, view in shown.items():
            version, content = await run_in_threadpool(view, seen[name])
            if version != seen[name] and content is not None:
                seen[name] = version
                silent_s = 0.0
                yield f"data: {encoded({'view': name, 'content': content})}\n\n"
        await asyncio.sleep(_INTERVAL_S)
        silent_s += _INTERVAL_S
        if silent_s >= _HEARTBEAT_S:  # so that a connection that is gone is noticed
            silent_s = 0.0
            yield ": still here\n\n"


class Server:
    """Serves the page of ``home`` on ``host`` and ``port``; 0 takes a free one. Use it as a context manager.

    Raises:
        ConfigError: the address cannot be had.
    """

    def __init__(self, home: Home, host: str, port: int, *, with_token: bool) -> None:
        self._socket = listen(host, port)
        self._token = secrets.token_urlsafe(24) if with_token else None
        app = make_app(home, self._token, lambda: self._server.should_exit)
        self._server = make_server(app)
        self._host = host

    @property
    def url(self) -> str:
        """The address to open, the token included."""
        return f"{base_url(self._host, self._socket)}/" + (f"?token={self._token}" if self._token else "")

    def run(self) -> None:
        """Serve until Ctrl-C or SIGTERM."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Let ``run`` return. Any thread may call it."""
        self._server.should_exit = True

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
