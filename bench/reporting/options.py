"""What the command lines of the benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One line, without the usage."""
        self.exit(2, f"{message}\n")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are whole numbers from 1")
    return int(text)


def arms_of(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads some of ``names``, the first among them, and puts them in their order."""

    def read(text: str) -> tuple[str, ...]:
        asked = text.split(",")
        if not set(asked) <= set(names) or names[0] not in asked:
            raise argparse.ArgumentTypeError(
                f"{text!r}: allowed are {names[0]} and, with it, any of {', '.join(names[1:])}"
            )
        return tuple(name for name in names if name in asked)

    return read


def new_file(text: str) -> Path:
    """A file to write, in a folder that is there."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: the folder {path.parent} does not exist; create it")
    return path
