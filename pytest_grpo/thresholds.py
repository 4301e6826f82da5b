"""Thresholds and the verdict on a measured value.

A thresholds file has one table per device profile and phase::

    [cpu.phase5]
    compact_tokens_per_second_ratio = { at_least = 1.30, unit = "x" }

Each threshold is one of ``at_least``, ``at_most``, ``within = [low, high]`` or ``equals`` (exact counts).
"""

from __future__ import annotations

import enum
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_grpo.phases import PHASE_NUMBERS
from pytest_grpo.stats import RatioEstimate

Kind = Literal["at_least", "at_most", "within", "equals"]
KINDS: tuple[Kind, ...] = ("at_least", "at_most", "within", "equals")
MIN_PAIRS = 2
_NAME = re.compile(r"[A-Za-z0-9_]+")


class Verdict(enum.StrEnum):
    """What a measurement says about its threshold."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The values that are good enough: ``low`` to ``high``, both included."""

    name: str
    phase: int
    kind: Kind
    low: float
    high: float
    unit: str = ""

    def __str__(self) -> str:
        if self.kind == "within":
            bound = f"{format_number(self.low)}..{format_number(self.high)}"
        elif self.kind == "at_most":
            bound = f"<= {format_number(self.high)}"
        else:
            bound = f"{'==' if self.kind == 'equals' else '>='} {format_number(self.low)}"
        return f"{bound} {self.unit}".rstrip()


def format_number(value: float) -> str:
    """Whole numbers and large ones without decimals, others with four digits."""
    if abs(value) >= 10_000 or value == round(value):
        return f"{value:.0f}"
    return f"{value:.4g}"


def judge(threshold: Threshold, measured: float | RatioEstimate) -> Verdict:
    """The verdict on a plain number, or on the median of an estimate.

    Fewer than two pairs decide nothing.
    """
    if isinstance(measured, RatioEstimate):
        if measured.num_pairs < MIN_PAIRS:
            return Verdict.INCONCLUSIVE
        measured = measured.median
    return Verdict.PASS if threshold.low <= measured <= threshold.high else Verdict.FAIL


def load_thresholds(path: Path, device_profile: str) -> dict[str, Threshold]:
    """The thresholds of one device profile, by name.

    Raises:
        pytest.UsageError: the file is missing, damaged, has no such profile, or a threshold in it makes no sense.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise pytest.UsageError(f"thresholds {path}: no such file; write it, or set the ini grpo_thresholds") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise pytest.UsageError(f"thresholds {path}: not a readable TOML file ({error}); mend it") from None
    tables = document.get(device_profile)
    if not isinstance(tables, dict):
        raise pytest.UsageError(
            f"thresholds {path}: no device profile {device_profile!r}; add tables like [{device_profile}.phase2]"
        )
    thresholds: dict[str, Threshold] = {}
    for marker, table in tables.items():
        where = f"thresholds {path}: [{device_profile}.{marker}]"
        if marker not in PHASE_NUMBERS or not isinstance(table, dict):
            raise pytest.UsageError(f"{where}: allowed are tables phase0 to phase6; rename it")
        for name, entry in table.items():
            if name in thresholds or not _NAME.fullmatch(name):
                raise pytest.UsageError(f"{where} {name!r}: names are unique letters, digits and '_'; rename it")
            thresholds[name] = _read_threshold(name, PHASE_NUMBERS[marker], entry, f"{where} {name}")
    return thresholds


def _read_threshold(name: str, phase: int, entry: Any, where: str) -> Threshold:
    allowed = f"write one of {', '.join(KINDS)}, and a unit if it has one"
    if not isinstance(entry, dict):
        raise pytest.UsageError(f"{where}: {entry!r} is no table; {allowed}")
    kinds: list[Kind] = [kind for kind in KINDS if kind in entry]
    unit = entry.get("unit", "")
    if len(kinds) != 1 or set(entry) - {*kinds, "unit"} or not isinstance(unit, str) or not unit.isascii():
        raise pytest.UsageError(f"{where}: {entry!r} is not understood; {allowed}")
    kind = kinds[0]
    bounds = entry[kind] if kind == "within" else [entry[kind]]
    if not isinstance(bounds, list) or not all(_is_number(bound) for bound in bounds):
        raise pytest.UsageError(f"{where}: {kind} = {entry[kind]!r} is not numeric; write a number, or [low, high]")
    low, high = _bounds(kind, [float(bound) for bound in bounds], where)
    return Threshold(name, phase, kind, low, high, unit)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _bounds(kind: Kind, values: list[float], where: str) -> tuple[float, float]:
    if kind == "within":
        if len(values) != 2 or values[0] > values[1]:
            raise pytest.UsageError(f"{where}: within takes a low and a high number, in that order; mend it")
        return values[0], values[1]
    value = values[0]
    if kind == "at_least":
        return value, math.inf
    return (-math.inf, value) if kind == "at_most" else (value, value)


def override_thresholds(thresholds: Mapping[str, Threshold], overrides: Iterable[str]) -> dict[str, Threshold]:
    """``thresholds`` with the bounds of each ``name=number`` (``name=low..high`` for ``within``) replaced.

    Raises:
        pytest.UsageError: the name is unknown, or the value is no number.
    """
    changed = dict(thresholds)
    for override in overrides:
        name, equals, text = (part.strip() for part in override.partition("="))
        where = f"--grpo-threshold {override!r}"
        if not equals or not name:
            raise pytest.UsageError(f"{where}: write name=value, e.g. batched_speedup=1.5")
        if name not in changed:
            raise pytest.UsageError(f"{where}: no threshold {name!r}; allowed are {', '.join(sorted(changed))}")
        threshold = changed[name]
        parts = text.split("..") if threshold.kind == "within" else [text]
        low, high = _bounds(threshold.kind, [_parse_number(part, where, threshold.kind) for part in parts], where)
        changed[name] = replace(threshold, low=low, high=high)
    return changed


def _parse_number(text: str, where: str, kind: Kind) -> float:
    shape = "low..high, e.g. 0.5..2" if kind == "within" else "a number, e.g. 1.5"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise pytest.UsageError(f"{where}: {text!r} is no number; this threshold takes {shape}")
    return value
