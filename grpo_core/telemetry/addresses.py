"""Addresses of services, as environment variables give them."""

from __future__ import annotations

import re

from grpo_core.errors import CredentialsError

_USER = re.compile(r"[^/]*@")  # name and password before a host


def check_url(variable: str, url: str) -> str:
    """``url``, which ``variable`` holds.

    Raises:
        CredentialsError: it is no URL. The message leaves out its name and password.
    """
    if not url.startswith(("https://", "http://")):
        raise CredentialsError(
            f"{variable} {without_user(url)!r} is not a URL: it must start with https:// or http://; "
            "correct or unset it"
        )
    return url


def without_user(url: str) -> str:
    """``url`` for messages: without its name and password."""
    return _USER.sub("...@", url)
