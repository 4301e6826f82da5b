"""Single values of files that any program may have written: a number, a text, or nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_MAX_TEXT_LENGTH = 2_000


def number(value: Any) -> float | None:
    """``value`` where it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def numbers_of(record: Mapping[str, Any], fields: Iterable[str]) -> dict[str, float | None]:
    return {field: number(record.get(field)) for field in fields}


def text(value: Any) -> str:
    """``value`` where it is a text, cut where it is long; else empty."""
    return value[:_MAX_TEXT_LENGTH] if isinstance(value, str) else ""
