"""The run's file of events, one JSON object per line. Services get their events from it.

When it is full it becomes the older one, ``<run>.jsonl.1``, in place of the one before, and a new one begins.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from grpo_core.errors import HomeError
from grpo_core.home import make_folder, parse_json
from grpo_core.telemetry.events import Event, Record

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 1 << 30
_MAX_PAGE_BYTES = 4 << 20


class JsonlSink:
    """Appends one JSON object per line. Each line is one write, so a reader sees whole events at once.

    A disk that is full costs events, and no training: the first one is warned about, ``close`` says how many.
    """

    def __init__(self, path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """``max_bytes`` is what the file and the older one may take together.

        Raises:
            HomeError: ``path`` cannot be written.
        """
        make_folder(path.parent)
        self._path = path
        self._max_bytes = max_bytes
        self._num_lost = 0
        try:
            self._open()
            self._is_torn = _ends_within_a_line(path)  # an earlier run was killed while it wrote
        except OSError as error:
            raise HomeError(f"{self._unwritable(error)}; set GRPO_HOME to a folder that you can write") from error

    def write(self, event: Event) -> None:
        line = event.line()
        try:
            if self._num_bytes + len(line) > self._max_bytes // 2:
                self._begin_anew()
            self._append(b"\n" + line if self._is_torn else line)
        except OSError as error:
            self._num_lost += 1
            if self._num_lost == 1:
                logger.warning("%s; training goes on, and its events are lost until it can", self._unwritable(error))

    def flush(self) -> None:
        """Nothing waits: every line is written at once."""

    def begin_close(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self._file.close()
        if self._num_lost:
            logger.warning("%d events are not in %s", self._num_lost, self._path)

    def _open(self) -> None:
        self._file = open(self._path, "ab", buffering=0, opener=_open_private)  # noqa: SIM115  # closed by close
        self._num_bytes = os.fstat(self._file.fileno()).st_size

    def _begin_anew(self) -> None:
        os.replace(self._path, older_file(self._path))
        self._file.close()
        self._open()

    def _append(self, content: bytes) -> None:
        """Without buffers the system may take a part, and refuse the rest."""
        left = memoryview(content)
        try:
            while left:
                left = left[self._file.write(left) :]
        finally:
            self._num_bytes += len(content) - len(left)
            if len(left) < len(content):
                self._is_torn = bool(left)

    def _unwritable(self, error: OSError) -> str:
        return f"cannot write {self._path}: {error.strerror}"


def older_file(path: Path) -> Path:
    """Where the events of ``path`` went when it was full."""
    return path.with_name(f"{path.name}.1")


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of a file, in order. The next page begins at byte ``end``."""

    records: tuple[Record, ...]
    end: int


def read_page(file: BinaryIO, start: int, max_events: int) -> Page:
    """At most ``max_events`` events of ``file`` from byte ``start`` on. What is no event is left out."""
    file.seek(start)
    content = file.read(_MAX_PAGE_BYTES)
    if b"\n" not in content and len(content) == _MAX_PAGE_BYTES:
        return Page((), start + len(content))  # no event is as long
    lines = content.split(b"\n")[:-1][:max_events]  # behind the last line end is one that is being written, or torn
    records = [record for record in map(parse_line, lines) if isinstance(record, dict) and "kind" in record]
    return Page(tuple(records), start + sum(len(line) + 1 for line in lines))


def parse_line(line: bytes) -> Any:
    """What the line holds; None where it is no JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # or what Python's parser alone takes: NaN, or more than 64 bits
        pass
    try:
        return parse_json(line)
    except ValueError:
        return None


def _ends_within_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
