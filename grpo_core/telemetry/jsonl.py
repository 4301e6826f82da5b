"""The run's file of events, one JSON object per line."""

from __future__ import annotations

import json
from pathlib import Path

from grpo_core.errors import HomeError
from grpo_core.home import make_folder
from grpo_core.telemetry.events import Event


class JsonlSink:
    """Appends one JSON object per line. Each line is one write, so a reader sees whole events at once."""

    def __init__(self, path: Path) -> None:
        """Raises ``HomeError`` when ``path`` cannot be written."""
        make_folder(path.parent)
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
            if _ends_within_a_line(path):  # an earlier run was killed while it wrote
                self._file.write(b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, event: Event) -> None:
        """Raises ``HomeError`` when the line cannot be written, e.g. because the disk is full."""
        try:
            self._file.write(json.dumps(event.record()).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def flush(self) -> None:
        """Nothing waits: every line is written at once."""

    def close(self) -> None:
        self._file.close()

    def _unwritable(self, error: OSError) -> HomeError:
        return HomeError(f"cannot write {self._path}: {error.strerror}; set GRPO_HOME to a folder that you can write")


def _ends_within_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"
