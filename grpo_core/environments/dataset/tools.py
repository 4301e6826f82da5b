"""The functions that a row's policy may call, as the chat template shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_core.errors import ConfigError, shown
from grpo_core.home import parse_json

_KEY = "environment.data.tools_column"
_FORM = '[{"type": "function", "function": {"name": "...", "parameters": {...}}}]'


def with_tools(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], column: str, source: str
) -> list[Mapping[str, Any]]:
    """``rows`` whose ``column`` is a list of functions, empty where a row has none.

    Raises:
        ConfigError: there is no such column, or a row's value is no list of functions; names the row.
    """
    if column not in columns:
        raise ConfigError(
            f"{_KEY}: {source} has no column {column!r}; it has {', '.join(columns)}; name the one with tools"
        )
    return [
        {**row, column: _tools(row.get(column), column, f"{source}, row {row_number}")}
        for row_number, row in enumerate(rows, 1)
    ]


def _tools(value: object, column: str, where: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    try:
        found: object = parse_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"{where}: {column} is not JSON ({error}); give a list such as {_FORM}") from error
    if not isinstance(found, list) or not all(map(_is_tool, found)):
        raise ConfigError(f"{where}: {column} {shown(value)} is no list of functions; give a list such as {_FORM}")
    return found


def _is_tool(value: object) -> bool:
    """In OpenAI's form, or without its outer level, which some templates want."""
    if not isinstance(value, dict):
        return False
    function = value.get("function", value)
    return isinstance(function, dict) and isinstance(function.get("name"), str)
