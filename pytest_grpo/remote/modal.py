"""Running tests on Modal, through the function ``run_pytest`` of the project's own ``app.py``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_grpo.remote.protocol import Event, RemoteLostError


class ModalRemote:
    """One container of the app in ``folder``/app.py, which has an ``app`` and a function ``run_pytest``.

    Nothing is contacted before ``run``.

    Raises:
        pytest.UsageError: there are no credentials, or no app.py.
    """

    def __init__(self, folder: Path) -> None:
        check_credentials()
        if not (folder / "app.py").is_file():
            raise pytest.UsageError(f"--modal: no app.py in {folder}; it must define app and run_pytest")
        self._folder = folder

    def run(self, node_ids: Sequence[str], arguments: Sequence[str]) -> Iterator[Event]:
        from modal.exception import Error

        app_module = _import_app(self._folder)
        try:
            with app_module.app.run():
                events = app_module.run_pytest.remote([*arguments, *node_ids])
        except Error as error:
            raise RemoteLostError(f"Modal: {error}") from error
        yield from events


def check_credentials() -> None:
    """Raises pytest.UsageError when Modal's own configuration has no token. Contacts nothing."""
    try:
        from modal.config import config
    except ModuleNotFoundError:
        raise pytest.UsageError(
            "--modal: the package modal is not installed; pip install modal, or leave --modal out to measure here"
        ) from None
    if not (config.get("token_id") and config.get("token_secret")):
        raise pytest.UsageError(
            "--modal: no Modal credentials; run 'modal token new' or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, "
            "or leave --modal out to measure here"
        )


def _import_app(folder: Path):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # Modal finds the function in the container by the module's name
    try:
        return importlib.import_module("app")
    except ValueError as error:  # a setting that app.py refuses, e.g. an unknown GPU
        raise pytest.UsageError(f"--modal: {error}") from error
