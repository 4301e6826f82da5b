"""How far a service has the events of a run. On disk, so that what an outage holds up is sent by a later process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from grpo_core.home import make_folder, parse_json
from grpo_core.telemetry.jsonl import Page, older_file, read_page

logger = logging.getLogger(__name__)

_HEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Byte ``position`` of one of a run's files of events, which ``head`` tells from the others."""

    position: int
    head: str


class Cursor:
    """A place in the file ``events``, or in the older one beside it. It starts at the end, unless ``path`` has it."""

    def __init__(self, path: Path, events: Path) -> None:
        """
        Raises:
            HomeError: the folder of ``path`` cannot be made.
        """
        make_folder(path.parent)
        self._path = path
        self._newest = events
        self._older = older_file(events)
        self._place = self._stored()
        self._write()

    def advance(self, place: Place) -> None:
        """The service has all events before ``place``."""
        self._place = place
        self._write()

    def pages(self, max_events: int) -> Iterator[tuple[Page, Place]]:
        """The events that the service has not got, in order, each page with the place behind it.

        A file that is full gets another name meanwhile, so each is opened first and then looked at.
        """
        place = self._place
        while (found := self._open(place.head)) is not None:
            file, is_newest = found
            with file:
                head = _head_of(file)
                start = place.position if head == place.head else 0
                page = read_page(file, start, max_events)
            place = Place(page.end, head)
            if page.end > start:
                yield page, place
            elif is_newest:
                return
            else:
                place = Place(0, self._newest_head())

    def _open(self, head: str) -> tuple[BinaryIO, bool] | None:
        """The file with this ``head``, and whether it is the newest one. Without such a file the oldest: its events go
        out, once more perhaps, with their ids."""
        oldest = None
        for path in (self._newest, self._older):
            try:
                file = path.open("rb")
            except OSError:  # nothing was written yet, or somebody removed it
                continue
            if oldest is not None:
                oldest[0].close()
            oldest = file, path == self._newest
            if head and _head_of(file) == head:
                break
        return oldest

    def _newest_head(self) -> str:
        try:
            with self._newest.open("rb") as file:
                return _head_of(file)
        except OSError:
            return ""

    def _stored(self) -> Place:
        try:
            stored = parse_json(self._path.read_bytes())
            return Place(max(0, int(stored["position"])), str(stored["head"]))
        except FileNotFoundError:
            return self._end()
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return Place(0, "")

    def _end(self) -> Place:
        """The end of the newest file that has an event."""
        for path in (self._newest, self._older):
            try:
                with path.open("rb") as file:
                    if head := _head_of(file):
                        return Place(file.seek(0, os.SEEK_END), head)
            except OSError:
                continue
        return Place(0, "")

    def _write(self) -> None:
        """Atomic, and not waited for: after a power cut events go out again."""
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            temporary.write_text(json.dumps(asdict(self._place)))
            os.replace(temporary, self._path)
        except OSError as error:  # a full disk
            logger.info("cannot write %s: %s", self._path, error.strerror)


def _head_of(file: BinaryIO) -> str:
    """What tells a file from another one: its first event has a time of its own. Empty while there is none."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    return hashlib.sha256(head).hexdigest() if len(head) == _HEAD_BYTES else ""
