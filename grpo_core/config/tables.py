"""Tables of settings whose names are not this project's: those of one's own environment, of a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator


def _plain(value: Any) -> Any:
    """``value`` as JSON and TOML both have it. A name that is not set (None) is left out.

    Raises:
        ValueError: it holds something else, such as a date.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if not isinstance(value, str | int | float | bool):
        raise ValueError(
            f"a {type(value).__name__} cannot be kept in a checkpoint; give text, a number, a list, a table"
        )
    return value


SettingsTable = Annotated[dict[str, Any], AfterValidator(_plain)]
"""Names and plain values: text, numbers, booleans, lists and tables."""
