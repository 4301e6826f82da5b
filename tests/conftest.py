"""The local Modal server, for all tests."""

from __future__ import annotations

from tests.modal_server.fixture import modal_server as modal_server
