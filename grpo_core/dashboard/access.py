"""Who may read the page: requests for this machine by its own name, from the page itself, with the token if any.

A page of another site that is open in the same browser can send requests to 127.0.0.1, too, or have its own name lead
there (DNS rebinding). Its requests name another host or another origin, and are refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grpo_core.web.addresses import LOOPBACK_NAMES, name_of

COOKIE = "grpo_token"
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Access:
    """Answers what is refused, and hands the rest to ``app``. Without ``token``: for names of this machine only."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self._refusal(scope)
        await (self._app if answer is None else answer)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._token is None and name_of(host) not in LOOPBACK_NAMES:
            return _refused("this page is served as 127.0.0.1 and localhost only")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _refused("only the page itself may read this")
        is_link = headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not (is_link and scope["path"] == "/"):
            return _refused("only the page itself may read this")
        return None if self._token is None else self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        assert self._token is not None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _are_equal(given, self._token):
            answer = RedirectResponse("/", status_code=303)  # the address in the browser's history has no token
            answer.set_cookie(COOKIE, self._token, httponly=True, samesite="lax")
            return answer
        if _are_equal(_cookie(headers.get("cookie", "")), self._token):
            return None
        return PlainTextResponse("Open the link that grpo dashboard printed: it has the token.\n", status_code=401)


def _refused(why: str) -> Response:
    return PlainTextResponse(f"Refused: {why}.\n", status_code=403)


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _are_equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
