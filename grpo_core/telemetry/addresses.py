"""Addresses and headers of services, as environment variables give them."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from grpo_core.errors import CredentialsError

_USER = re.compile(r"[^/]*@")  # name and password before a host


def check_url(variable: str, url: str) -> str:
    """``url``, which ``variable`` holds.

    Raises:
        CredentialsError: it is no URL. The message leaves out its name and password.
    """
    try:
        has_host = url.startswith(("https://", "http://")) and urlsplit(url).hostname is not None
    except ValueError:
        has_host = False
    if not has_host:
        raise CredentialsError(
            f"{variable} {without_user(url)!r} is not a URL: it must be a host behind https:// or http://; "
            "correct or unset it"
        )
    return url


def check_header(variable: str, value: str) -> str:
    """``value``, which ``variable`` holds, for a header of HTTP.

    Raises:
        CredentialsError: no header can carry it. The message does not show it, as that of a client would: it is secret.
    """
    for place, letter in enumerate(value, start=1):
        if not " " <= letter <= "~" or (letter == " " and place in (1, len(value))):
            raise CredentialsError(
                f"{variable}: character {place} of {len(value)} is a line end, not in ASCII, or a blank at an end; no "
                "request can carry it, set it again"
            )
    return value


def without_user(url: str) -> str:
    """``url`` for messages: without its name and password."""
    return _USER.sub("...@", url)


def pairs(text: str) -> dict[str, str]:
    """``a=1,b=%20`` of OpenTelemetry's variables; what has no ``=`` is left out."""
    named = (pair.partition("=") for pair in text.split(","))
    return {name.strip(): unquote(value.strip()) for name, sign, value in named if sign and name.strip()}
