"""Nested settings, as a TOML file has them: ``{"training": {"loss": "gspo"}}``."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from grpo_core.errors import ConfigError, shown

_KEY = re.compile(r"\w+(\.\w+)*")


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


def parse_toml(text: str) -> dict[str, Any]:
    """The values of ``text``.

    Raises:
        ValueError: it is no TOML, has a number of thousands of digits, or is nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_setting(option: str, text: str) -> tuple[str, Any]:
    """The dotted key and the value of ``training.learning_rate=1e-3``, which ``option`` gave.

    A value is TOML; what is none is taken as a string. Nothing at all is a setting that is not set: None.

    Raises:
        ConfigError: it has no key, or names the run.
    """
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not _KEY.fullmatch(key):
        raise ConfigError(f"{option} {shown(text)}: give SECTION.KEY=VALUE, e.g. training.learning_rate=1e-3")
    if key == "run":
        raise ConfigError(f"{option} {shown(text)}: a run is named with --run, a measurement with --profile-name")
    try:
        return key, parse_toml(f"value = {value}")["value"] if value else None
    except ValueError:
        return key, value


def toml_text(value: Any) -> str:
    """``value`` in TOML, where scalars have JSON's syntax. What is not set is no text."""
    if isinstance(value, dict):
        given = {key: inner for key, inner in value.items() if inner is not None}
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_text(inner)}" for key, inner in given.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_text, value)) + "]"
    return "" if value is None else json.dumps(value, ensure_ascii=False)
