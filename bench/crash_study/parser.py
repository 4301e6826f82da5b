"""A parser of the project: how it is called, and a sound input to begin from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.crash_study.mutations import as_json

Parse = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Parser:
    """``prepare`` returns what parses an input, given an empty folder. ``structure`` is a sound input as JSON value."""

    name: str
    content: Callable[[], bytes]
    prepare: Callable[[Path], Parse]
    structure: Callable[[], Any] | None = None


def of_json(name: str, structure: Callable[[], Any], prepare: Callable[[Path], Parse]) -> Parser:
    return Parser(name, lambda: as_json(structure()), prepare, structure)
