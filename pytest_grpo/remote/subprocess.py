"""Running tests in a clean Python process on this machine. On Modal, the same code runs inside the container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_grpo.config import CHILD_PLUGIN
from pytest_grpo.remote.protocol import Event

OUTPUT_TAIL_CHARACTERS = 2000
_NOT_INHERITED = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "GITHUB_STEP_SUMMARY")


class SubprocessRemote:
    """A process of its own, started in ``folder``, the root of the project."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, node_ids: Sequence[str], arguments: Sequence[str]) -> Iterator[Event]:
        yield from collect_reports([*arguments, *node_ids], self._folder)


def collect_reports(arguments: Sequence[str], folder: Path | None = None) -> list[Event]:
    """Run ``pytest ARGUMENTS`` in a new process in ``folder`` (default: the working folder).

    Returns what it reported, in order, as JSON-able events (see ``remote.protocol.Event``); the last one is ``end``.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    with tempfile.TemporaryDirectory(prefix="grpo-reports-") as scratch:
        path = Path(scratch) / "events.jsonl"
        command = [sys.executable, "-m", "pytest", "-p", CHILD_PLUGIN, f"--grpo-report-file={path}", *arguments]
        process = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        events = _read_events(path) if path.exists() else []
    tail = process.stdout[-OUTPUT_TAIL_CHARACTERS:]
    return [*events, {"event": "end", "exit_code": process.returncode, "output_tail": tail}]


def _read_events(path: Path) -> list[Event]:
    *lines, _unfinished = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]
