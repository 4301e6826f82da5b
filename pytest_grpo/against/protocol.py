"""What a session and the worker of one side say to each other: JSON lines over a socket pair.

Imports only the standard library. The session asks (``do``), and the worker answers (``say``); it never speaks first,
but for ``hello``. Messages of the session:

- ``run``: run the test ``nodeid``; ``next`` is the test after it, whose fixtures stay. Answered by ``arms`` or ``done``
- ``measure``: one sample of ``arm``, the mean of ``repeats`` runs. Answered by ``sample``
- ``time``: ``repeats`` runs of ``arm`` that are not counted. Answered by ``took``
- ``answer``: what the first run of ``arm`` returned as its output. Answered by ``answer``
- ``compare``: hold the own answer of ``arm`` against ``other``, that of the other side. Answered by ``difference``
- ``release``: go on with the test. Answered by ``arms`` or ``done``
- ``end``: end the session. Not answered

Messages of the worker:

- ``hello``: ``protocol``, ``collected`` node ids, those that the session's options have ``selected``, collection
  ``errors`` by file, the ``device`` of the rows
- ``arms``: the test waits with its ``arms``, by name. ``wanted`` are the quantities that its assertion compares;
  without any, only counts and answers matter. ``is_new``: they are met for the first time. ``max_cores_of_others`` is
  the test's own limit, if it has one
- ``sample``: ``seconds``, ``quantities`` and ``spans``
- ``took``: ``seconds`` of one run
- ``answer``: ``value``, as JSON; ``missing`` says why there is none
- ``difference``: ``text``, empty when the answers agree; ``by`` says by which rule, ``missing`` why nothing was found
- ``raised``: an arm raised ``error``; the test goes on to its end, without being asked
- ``done``: the test has ended; ``reports`` are its reports, ``imported`` the files of the project that are loaded
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

PROTOCOL_VERSION = 1
NO_ANSWER = "it returns no answer"
"""Why a side has no answer, when its arm gives none to compare."""

Message = dict[str, Any]

_CHUNK_BYTES = 1 << 16


class ChannelClosedError(EOFError):
    """The other end is gone."""


class Channel:
    """Sends and receives messages."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def send(self, message: Message) -> None:
        """Raises ChannelClosedError when nobody listens."""
        line = json.dumps(message, default=str).encode() + b"\n"  # a test may record properties that are not JSON
        try:
            self._connection.settimeout(None)
            self._connection.sendall(line)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError from error

    def receive(self, timeout_s: float | None = None) -> Message:
        """The next message.

        Raises:
            ChannelClosedError: the other end is gone; a line without its end is dropped.
            TimeoutError: nothing came within ``timeout_s``.
        """
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            self._connection.settimeout(None if ends_at is None else max(0.001, ends_at - time.monotonic()))
            try:
                chunk = self._connection.recv(_CHUNK_BYTES)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise ChannelClosedError
            self._received += chunk
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return json.loads(line)

    def close(self) -> None:
        self._connection.close()
