"""The local Modal server, through the real SDK: each thing that this project uses of Modal, and each fault."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import modal
import pytest

from tests.modal_server import ModalServer

FOLDER = Path(__file__).resolve().parent


@pytest.fixture
def example(modal_server: ModalServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """example_app, running."""
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop("example_app", None)  # its volume and image remember the server that they were made on
    module = importlib.import_module("example_app")
    with module.app.run():
        yield module


def modal_cli(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modal", *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_call_returns_prints_and_raises_as_on_modal(modal_server: ModalServer, example: ModuleType):
    assert example.square.remote(3) == 9
    modal_server.wait_until(lambda: "squaring 3\n" in modal_server.output())

    with pytest.raises(ValueError, match="-2 is negative") as caught:
        example.square.remote(-2)

    frames = [frame.name for frame in caught.traceback]
    assert frames[-1] == "square"  # the remote frame


def test_map_spawn_and_generators(example: ModuleType):
    assert list(example.square.map(range(120))) == [number * number for number in range(120)]
    assert list(example.count.remote_gen(5)) == [0, 1, 2, 3, 4]
    call = example.square.spawn(7)
    assert modal.FunctionCall.from_id(call.object_id).get(timeout=20) == 49


def test_the_cli_runs_and_shows_what_is_printed(modal_server: ModalServer):
    ran = modal_cli("run", "example_app.py")

    assert ran.returncode == 0, ran.stderr
    assert "squaring 3" in ran.stdout
    assert "result 9" in ran.stdout
    assert modal_server.num_containers() == 0
