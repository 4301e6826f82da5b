"""How far a service has the events of a file. On disk, so that what an outage holds up is sent by a later process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from grpo_core.home import make_folder, parse_json

logger = logging.getLogger(__name__)

_HEAD_BYTES = 64


class Cursor:
    """A position in the file ``events``, in bytes. It starts at the file's end, unless ``path`` has it from before."""

    def __init__(self, path: Path, events: Path) -> None:
        """
        Raises:
            HomeError: the folder of ``path`` cannot be made.
        """
        make_folder(path.parent)
        self._path = path
        self._events = events
        self.position = self._stored()
        self._write()

    def advance(self, position: int) -> None:
        """The service has all events before ``position``."""
        self.position = position
        self._write()

    def _stored(self) -> int:
        """0 where it cannot be read, or the file is another one now: then events go out again, with their ids."""
        size = self._events.stat().st_size if self._events.exists() else 0
        try:
            stored = parse_json(self._path.read_bytes())
            position, head = int(stored["position"]), stored["head"]
        except FileNotFoundError:
            return size
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return position if 0 <= position <= size and head == self._head() else 0

    def _write(self) -> None:
        """Atomic, and not waited for: after a power cut events go out again."""
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            temporary.write_text(json.dumps({"position": self.position, "head": self._head()}))
            os.replace(temporary, self._path)
        except OSError as error:  # a full disk
            logger.info("cannot write %s: %s", self._path, error.strerror)

    def _head(self) -> str:
        """What tells the file from one that replaced it: its first event has an id of its own."""
        try:
            with self._events.open("rb") as file:
                return hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
        except OSError:
            return ""
