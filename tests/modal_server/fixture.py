"""The fixture that tests of the remote phases, of the app and of the server itself share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import modal
import pytest
from modal.client import _Client

from tests.modal_server.server import ModalServer


@pytest.fixture
def modal_server() -> Iterator[ModalServer]:
    """A Modal of one's own: this process and those that it starts talk to it. Nothing is left of it afterwards."""
    with use(ModalServer()) as server:
        yield server


@contextmanager
def use(started: ModalServer) -> Iterator[ModalServer]:
    """Start a server and point this process at it, for the length of the ``with`` block."""
    with started as server, pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("MODAL_ENVIRONMENT", "MODAL_PROFILE", "MODAL_IS_REMOTE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        try:
            yield server
        finally:
            if _Client._client_from_env is not None:  # the SDK keeps one per process; the next test has another server
                modal.Client.from_env().__exit__(None, None, None)  # older versions have no close
