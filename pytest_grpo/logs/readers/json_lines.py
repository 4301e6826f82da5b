"""JSON Lines: one object per line, as the stacks' file loggers append them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_grpo.logs.readers.text_lines import CUT_OFF, text_lines

_LOOKED_AT = 50
"""Objects in which a format is recognised: a run may log something else first."""


def first_objects(path: Path) -> list[dict[str, Any]]:
    """The first objects; empty when the first line that is not blank holds none."""
    lines = (line for line, _ in text_lines(path) if line.strip())
    found = [_parsed(line) for line in itertools.islice(lines, _LOOKED_AT)]
    return [each for each in found if each is not None] if found and found[0] is not None else []


def read_objects(path: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """All objects in order, and notes on the lines that hold none."""
    found, num_damaged, is_cut_off = [], 0, False
    for line, is_whole in text_lines(path):
        parsed = _parsed(line)
        if parsed is not None:
            found.append(parsed)
        elif line.strip():
            num_damaged += is_whole
            is_cut_off = not is_whole
    damaged = f"{num_damaged} damaged line{'' if num_damaged == 1 else 's'} left out"
    return found, (*([damaged] if num_damaged else []), *([CUT_OFF] if is_cut_off else []))


def numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The ``values`` that are numbers; null is what some loggers make of NaN."""
    for name, value in values.items():
        if value is None:
            yield name, math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def whole_number(value: Any) -> int | None:
    """The step ``12`` or ``12.0``; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return int(value) if is_number and value == int(value) else None


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
