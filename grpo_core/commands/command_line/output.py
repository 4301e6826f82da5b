"""An output that nobody may read to its end, as behind ``| head``: a run does not end with its reader."""

from __future__ import annotations

import logging
import os
from typing import IO, TextIO, cast

logger = logging.getLogger(__name__)


class LastingOutput:
    """Writes to ``file``. When nobody reads that any more, what follows is thrown away, and a warning says so once."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._is_read = True

    def write(self, text: str) -> int:
        if self._is_read:
            try:
                return self._file.write(text)
            except BrokenPipeError:
                self._lose()
        return len(text)

    def flush(self) -> None:
        if self._is_read:
            try:
                self._file.flush()
            except BrokenPipeError:
                self._lose()

    def isatty(self) -> bool:
        return self._file.isatty()

    def fileno(self) -> int:
        return self._file.fileno()

    @property
    def encoding(self) -> str:
        return self._file.encoding

    def _lose(self) -> None:
        self._is_read = False
        throw_away(self._file)
        logger.warning("nobody reads the output any more; training goes on without it")


def throw_away(file: TextIO) -> None:
    """Throw away what is left for ``file``: Python writes it at its end, and would complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def lasting(file: IO[str]) -> IO[str]:
    return cast(IO[str], LastingOutput(cast(TextIO, file)))
