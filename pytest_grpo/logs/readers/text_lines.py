"""The lines of a text file, without colours, and whether each is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

CUT_OFF = "the last line is cut off and left out"
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def text_lines(path: Path) -> Iterator[tuple[str, bool]]:
    """Each line and whether it ends. Bytes that are no UTF-8 are replaced; a carriage return ends a line, too."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield _COLOURS.sub("", line).rstrip("\n"), line.endswith("\n")
