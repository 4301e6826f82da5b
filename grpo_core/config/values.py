"""Nested settings, as a TOML file has them: ``{"training": {"loss": "gspo"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged(base: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``added`` over its own, section by section. Neither is changed."""
    values = dict(base)
    for key, value in added.items():
        inner = values.get(key)
        values[key] = merged(inner, value) if isinstance(value, Mapping) and isinstance(inner, Mapping) else value
    return values


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
