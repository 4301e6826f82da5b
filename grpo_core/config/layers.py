"""Settings laid over others: those of a file, and single ones as text."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from grpo_core.errors import ConfigError

_KEY = re.compile(r"\w+(\.\w+)*")


def merge(values: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the nested ``added`` over the nested ``values``, which is returned."""
    for key, value in added.items():
        inner = values.get(key)
        if isinstance(value, Mapping) and isinstance(inner, dict):
            merge(inner, value)
        else:
            values[key] = value
    return values


def parse_setting(option: str, text: str) -> tuple[str, Any]:
    """The dotted key and the value of ``training.learning_rate=1e-3``, which ``option`` gave.

    A value is TOML; what is none is taken as a string.

    Raises:
        ConfigError: it has no key.
    """
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not _KEY.fullmatch(key):
        raise ConfigError(f"{option} {text!r}: give SECTION.KEY=VALUE, e.g. training.learning_rate=1e-3")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
