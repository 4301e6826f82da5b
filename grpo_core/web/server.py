"""How an application is served: in silence, and until Ctrl-C or SIGTERM."""

from __future__ import annotations

import uvicorn
from starlette.types import ASGIApp

_SHUTDOWN_S = 2


def make_server(app: ASGIApp, *, has_lifespan: bool = False) -> uvicorn.Server:
    """A server that prints warnings only. What is under way gets two seconds when it ends."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on" if has_lifespan else "off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    return uvicorn.Server(config)
