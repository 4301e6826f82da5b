"""Addresses of servers on this machine."""

from __future__ import annotations

import errno
import socket
from urllib.parse import urlsplit

from grpo_core.errors import ConfigError

_MAX_PORT = 65_535
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections to ``host`` and ``port``; 0 takes a free one.

    Raises:
        ConfigError: the address cannot be had.
    """
    if not 0 <= port <= _MAX_PORT:
        raise ConfigError(f"--port {port}: give 0 to {_MAX_PORT}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from here on a client waits, and is not turned away
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"--port {port}: another program has it; give another one, or 0 for a free one") from None
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}; give an address of this machine") from None
    return listener


def base_url(host: str, listener: socket.socket) -> str:
    """The URL of ``listener``, which was opened for ``host``."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def name_of(host: str) -> str:
    """The host of a ``Host`` header, without its port: behind a tunnel that is another one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
