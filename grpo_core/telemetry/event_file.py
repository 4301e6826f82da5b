"""The events of a run as its file grows: each line is read once, whatever happens to the file meanwhile."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from grpo_core.telemetry.events import Record
from grpo_core.telemetry.jsonl import older_file, read_page

_MAX_PAGE_EVENTS = 5_000

FileKey = tuple[int, int]
"""What tells a file from another of its name: device and inode."""


class EventFile:
    """Follows ``<run>.jsonl``, and the older file beside it that a full one becomes.

    ``generation`` counts up when what was read is no longer there: the file was removed, cut or replaced. The next
    pages are then the new file's, from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.generation = 0
        self._path = path
        self._file: FileKey | None = None  # the one that is being read
        self._position = 0

    def new_pages(self) -> Iterator[tuple[Record, ...]]:
        """The events since the last call, oldest first, some thousands at a time."""
        present = self._present()
        keys = [key for key, _, _ in present]
        if self._file is not None and self._file not in keys:
            self._begin_anew()
        start = 0 if self._file is None else keys.index(self._file)
        for key, path, num_bytes in present[start:]:
            if key != self._file:
                self._file, self._position = key, 0
            if num_bytes < self._position:
                self._begin_anew()
                self._file = key
            yield from self._pages_of(path)

    def _begin_anew(self) -> None:
        self.generation += 1
        self._file, self._position = None, 0

    def _pages_of(self, path: Path) -> Iterator[tuple[Record, ...]]:
        try:
            file = path.open("rb")
        except OSError:  # removed, or no longer readable
            return
        with file:
            while True:
                page = read_page(file, self._position, _MAX_PAGE_EVENTS)
                if page.end == self._position:
                    return
                self._position = page.end
                if page.records:
                    yield page.records

    def _present(self) -> list[tuple[FileKey, Path, int]]:
        """The files that are there, the older one first. Only what is a file is opened: a pipe would wait for ever."""
        found = []
        for path in (older_file(self._path), self._path):
            try:
                status = path.stat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(((status.st_dev, status.st_ino), path, status.st_size))
        return found
