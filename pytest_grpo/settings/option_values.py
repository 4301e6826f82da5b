"""Single options: read from the command line or the ini file, and checked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

DEFAULT_TOLERANCE = 0.05
"""How much worse than a baseline is tolerated, as a fraction."""

DEFAULT_MAX_CORES_OF_OTHERS = 0.1
"""With two threads on two cores, 0.1 core of others takes 5 % of the time: about the noise of 4 % for which the error
rates are declared."""


def option_or_ini(config: pytest.Config, name: str) -> str:
    """What the command line gives, else the ini value; empty when neither is set."""
    option = config.getoption(name, None)
    return config.getini(name) if option is None else option


def given(config: pytest.Config, name: str) -> str | None:
    """What the option or the ini file gives, None without either. An empty option is kept, so that it is rejected."""
    value = option_or_ini(config, name)
    return None if value == "" and config.getoption(name) is None else value


def choice(config: pytest.Config, name: str, allowed: tuple[str, ...], default: str) -> str | None:
    """One of ``allowed``; None when unset or set to ``default``."""
    value = option_or_ini(config, name) or default
    if value not in (*allowed, default):
        given = f"ini {name}" if config.getoption(name, None) is None else f"--{name.replace('_', '-')}"
        raise pytest.UsageError(f"{given} {value!r}: allowed are {', '.join((*allowed, default))}; choose one")
    return None if value == default else value


def parse_looks(text: str) -> tuple[int, ...]:
    """Numbers of pairs, from ``8,12,18``. Raises pytest.UsageError unless they increase, from 1 to 1000."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 1000 for part in parts) or parts != sorted(set(parts), key=int):
        raise pytest.UsageError(
            f"--grpo-pairs {text!r}: allowed are increasing whole numbers from 1 to 1000; try 8,12,18,27,40"
        )
    return tuple(int(part) for part in parts)


def parse_budget_s(text: str) -> float:
    """Raises pytest.UsageError unless ``text`` is a number of seconds above 0, at most a day."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise pytest.UsageError(f"--grpo-budget {text!r}: allowed are seconds above 0, at most 86400; try 45")
    return seconds


def parse_max_cores_of_others(text: str) -> float:
    """Raises pytest.UsageError unless ``text`` is a number of cores from 0; ``inf`` is any number."""
    try:
        cores = float(text)
    except ValueError:
        cores = math.nan
    if not cores >= 0:
        raise pytest.UsageError(
            f"ini grpo_max_cores_of_others {text!r}: allowed are numbers of cores from 0, or inf for any; try 0.1"
        )
    return cores


def given_num_gates(config: pytest.Config) -> int | None:
    """``--grpo-num-gates``, None when unset. Raises pytest.UsageError unless it is from 1 to 10000."""
    text = config.getoption("grpo_num_gates")
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise pytest.UsageError(f"--grpo-num-gates {text!r}: allowed are whole numbers from 1 to 10000; try 9")
    return int(text)


def parse_tolerance(text: str) -> float:
    """Raises pytest.UsageError unless ``text`` is a fraction from 0 to below 1."""
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = math.nan
    if not 0 <= tolerance < 1:
        raise pytest.UsageError(f"tolerance {text!r}: allowed are fractions from 0 to below 1; try {DEFAULT_TOLERANCE}")
    return tolerance


def given_new_file(config: pytest.Config, name: str, example: str) -> Path | None:
    """Checks before anything is measured that a file can be written there."""
    text, option = given(config, name), f"--{name.replace('_', '-')}"
    if text is None:
        return None
    path = config.invocation_params.dir / text
    if not text.strip() or path.is_dir():
        raise pytest.UsageError(f"{option} {text!r}: not a file; name one, e.g. {example}")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise pytest.UsageError(f"{option} {text!r}: {nearest} is not a folder; name a file in a folder")
    return path
