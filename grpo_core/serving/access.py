"""Who may ask: programs of this machine, or who has the key; never a page in a browser."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from grpo_core.serving.answers import failure
from grpo_core.web.addresses import LOOPBACK_NAMES, name_of


class Access:
    """Answers what is refused, and hands the rest to ``app``. Without ``key``: for names of this machine only."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        await (self._app if answer is None else answer)(scope, receive, send)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
            return JSONResponse(failure("pages in a browser may not ask here"), 403)
        if self._key is None:
            is_own = name_of(headers.get("host", "")) in LOOPBACK_NAMES
            return None if is_own else JSONResponse(failure("this server answers as 127.0.0.1 and localhost only"), 403)
        given = headers.get("authorization", "")
        if hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self._key}".encode()):
            return None
        return JSONResponse(failure("the API key that grpo serve printed is missing", "authentication_error"), 401)
