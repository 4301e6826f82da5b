"""Thresholds and their sources.

A thresholds file has one table per device profile and phase::

    [cpu.phase5]
    compact_tokens_per_second_ratio = { at_least = 1.30, unit = "x" }

Each threshold is one of ``at_least``, ``at_most``, ``within = [low, high]`` or ``equals`` (exact counts). In order of
precedence, weakest first: for the phases that come with the package, its own file; a marker in the test, the project's
file, the ini ``grpo_threshold``, the environment variable ``GRPO_THRESHOLD``, and ``--grpo-threshold``.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.packaged import PACKAGE, THRESHOLDS, is_packaged
from pytest_grpo.settings.config import ENVIRONMENT, PLUGIN_CONFIG
from pytest_grpo.settings.phases import PHASE_NUMBERS, PHASE_TABLES, is_gate, phases_of
from pytest_grpo.types import KINDS, Kind

_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Threshold:
    """The values that pass: ``low`` to ``high``, both included; an open bound is -inf or inf."""

    name: str
    phase: int | None
    kind: Kind
    low: float
    high: float
    unit: str = ""
    source: str = ""

    @property
    def bound(self) -> float:
        """The one number of ``at_least``, ``at_most`` and ``equals``."""
        return self.high if self.kind == "at_most" else self.low

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
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 10_000 or value == round(value):
        return f"{value:.0f}"
    return f"{value:.4g}"


def load_thresholds(path: Path, device_profile: str, shown: str = "") -> dict[str, Threshold]:
    """The thresholds of one device profile, by name. Their source calls the file ``shown``, or by its name.

    Raises:
        pytest.UsageError: the file is missing or damaged, has no such profile, or has an invalid threshold.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise pytest.UsageError(f"thresholds {path}: no such file; create it, or set the ini grpo_thresholds") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, no TOML, a number of 5000 digits
        raise pytest.UsageError(f"thresholds {path}: not a readable TOML file ({error}); correct it") from None
    tables = document.get(device_profile)
    if not isinstance(tables, dict):
        raise pytest.UsageError(
            f"thresholds {path}: no device profile {device_profile!r}; add tables like [{device_profile}.phase2]"
        )
    thresholds: dict[str, Threshold] = {}
    for marker, table in tables.items():
        if marker not in PHASE_NUMBERS or not isinstance(table, dict):
            where = f"thresholds {path}: [{device_profile}.{marker:.100}]"
            raise pytest.UsageError(f"{where}: allowed are tables {PHASE_TABLES}; rename it")
        where = f"thresholds {path}: [{device_profile}.{marker}]"
        for name, entry in table.items():
            if name in thresholds or not _NAME.fullmatch(name):
                raise pytest.UsageError(
                    f"{where} {name!r:.100}: names are unique, of letters, digits and '_'; rename it"
                )
            source = f"{shown or path.name} [{device_profile}.{marker}]"
            thresholds[name] = read_threshold(name, PHASE_NUMBERS[marker], entry, f"{where} {name}", source)
    return thresholds


def read_threshold(name: str, phase: int | None, entry: Any, where: str, source: str) -> Threshold:
    """The threshold that ``entry``, e.g. ``{"at_least": 1.3}``, describes. ``where`` is named in errors.

    Raises:
        pytest.UsageError: the entry is invalid.
    """
    allowed = f"write one of {', '.join(KINDS)}, and a unit if it has one"
    if not isinstance(entry, dict):
        raise pytest.UsageError(f"{where}: {entry!r:.100} is not a table; {allowed}")
    kinds: list[Kind] = [kind for kind in KINDS if kind in entry]
    unit = entry.get("unit", "")
    if len(kinds) != 1 or set(entry) - {*kinds, "unit"} or not isinstance(unit, str) or not unit.isascii():
        raise pytest.UsageError(f"{where}: {entry!r:.100} is not a threshold; {allowed}")
    kind = kinds[0]
    bounds = entry[kind] if kind == "within" else [entry[kind]]
    if not isinstance(bounds, (list, tuple)) or not all(_is_number(bound) for bound in bounds):
        raise pytest.UsageError(
            f"{where}: {kind} = {entry[kind]!r:.100} is not numeric; write a number, or [low, high]"
        )
    low, high = _bounds(kind, [float(bound) for bound in bounds], where)
    return Threshold(name, phase, kind, low, high, unit, source)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _bounds(kind: Kind, values: list[float], where: str) -> tuple[float, float]:
    if kind == "within":
        if len(values) != 2 or values[0] > values[1]:
            raise pytest.UsageError(f"{where}: within takes two numbers, [low, high], low first; correct it")
        return values[0], values[1]
    value = values[0]
    if kind == "at_least":
        return value, math.inf
    return (-math.inf, value) if kind == "at_most" else (value, value)


def override_thresholds(
    thresholds: Mapping[str, Threshold], overrides: Iterable[str], source: str
) -> dict[str, Threshold]:
    """``thresholds`` with the bounds of each ``name=number`` (``name=low..high`` for ``within``) replaced.

    ``source`` says where the overrides come from.

    Raises:
        pytest.UsageError: the name is unknown, or the value is not a number.
    """
    changed = dict(thresholds)
    for override in overrides:
        name, equals, text = (part.strip() for part in override.partition("="))
        where = f"{source} {override!r}"
        if not equals or not name:
            raise pytest.UsageError(f"{where}: write name=value, e.g. batched_speedup=1.5")
        if name not in changed:
            allowed = f"allowed are {', '.join(sorted(changed))}" if changed else "no file and no marker here sets one"
            raise pytest.UsageError(f"{where}: no threshold {name!r}; {allowed}")
        threshold = changed[name]
        parts = text.split("..") if threshold.kind == "within" else [text]
        low, high = _bounds(threshold.kind, [_parse_number(part, where, threshold.kind) for part in parts], where)
        changed[name] = replace(threshold, low=low, high=high, source=source)
    return changed


def _parse_number(text: str, where: str, kind: Kind) -> float:
    shape = "low..high, e.g. 0.5..2" if kind == "within" else "a number, e.g. 1.5"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise pytest.UsageError(f"{where}: {text!r} is not a number; this threshold takes {shape}")
    return value


MARKER = "grpo_threshold"
_FILE_THRESHOLDS = pytest.StashKey[Mapping[str, Threshold]]()
_PACKAGED_THRESHOLDS = pytest.StashKey[Mapping[str, Threshold]]()
_RUNS_PACKAGED = pytest.StashKey[bool]()
"""Whether a test of the session is one of the package's phases."""


def file_thresholds(config: pytest.Config) -> Mapping[str, Threshold]:
    """The thresholds of this session's file, read once; empty when the default file does not exist.

    Raises:
        pytest.UsageError: the file is not usable.
    """
    if _FILE_THRESHOLDS not in config.stash:
        settings = config.stash[PLUGIN_CONFIG]
        exists = settings.thresholds_required or settings.thresholds_path.exists()
        loaded = load_thresholds(settings.thresholds_path, settings.profile) if exists else {}
        config.stash[_FILE_THRESHOLDS] = loaded
    return config.stash[_FILE_THRESHOLDS]


def packaged_thresholds(config: pytest.Config) -> Mapping[str, Threshold]:
    """The thresholds of the phases that come with the package."""
    if _PACKAGED_THRESHOLDS not in config.stash:
        profile = config.stash[PLUGIN_CONFIG].profile
        config.stash[_PACKAGED_THRESHOLDS] = load_thresholds(THRESHOLDS, profile, PACKAGE)
    return config.stash[_PACKAGED_THRESHOLDS]


def thresholds_of(config: pytest.Config, item: pytest.Item | None = None) -> dict[str, Threshold]:
    """The effective thresholds of the session or, with its markers, of one test.

    Raises:
        pytest.UsageError: the file, a marker or an override is not usable.
    """
    has_packaged = config.stash.get(_RUNS_PACKAGED, False) if item is None else is_packaged(item.nodeid)
    effective = {**packaged_thresholds(config)} if has_packaged else {}
    effective |= marker_thresholds(item) if item is not None else {}
    return _overridden(config, {**effective, **file_thresholds(config)})


def _overridden(config: pytest.Config, thresholds: Mapping[str, Threshold]) -> dict[str, Threshold]:
    """``thresholds`` with the session's overrides of them."""
    changed = dict(thresholds)
    for source, text in config.stash[PLUGIN_CONFIG].threshold_overrides:
        if text.partition("=")[0].strip() in changed:
            changed = override_thresholds(changed, [text], source)
    return changed


def check_thresholds(config: pytest.Config, items: Iterable[pytest.Item], *, needs_file: bool) -> None:
    """Check the markers of ``items``, and that each override names a threshold of a marker or of the file.

    The environment's overrides count only where something is measured: it may be exported for another project.

    Raises:
        pytest.UsageError: a marker, an override or the file is not usable.
    """
    known: dict[str, Threshold] = {}
    is_measured = False
    for item in items:
        if is_packaged(item.nodeid):
            config.stash[_RUNS_PACKAGED] = True
            known |= packaged_thresholds(config)
        known |= marker_thresholds(item)
        is_measured = is_measured or is_gate(item) or bool(phases_of(item))
    overrides = [
        (source, text)
        for source, text in config.stash[PLUGIN_CONFIG].threshold_overrides
        if is_measured or source != ENVIRONMENT
    ]
    if needs_file or overrides:
        known |= file_thresholds(config)
    for source, text in overrides:
        override_thresholds(known, [text], source)


def marker_thresholds(item: pytest.Item) -> dict[str, Threshold]:
    """The thresholds that ``grpo_threshold`` markers of ``item`` set.

    Raises:
        pytest.UsageError: a marker's arguments are invalid.
    """
    thresholds: dict[str, Threshold] = {}
    nodes: dict[str, object] = {}
    for node, marker in item.iter_markers_with_node(MARKER):
        where = f"{item.nodeid}: marker {MARKER}{marker.args!r}"
        if len(marker.args) != 1 or not isinstance(marker.args[0], str) or not _NAME.fullmatch(marker.args[0]):
            raise pytest.UsageError(
                f'{where}: it takes a quantity and a bound; write {MARKER}("tokens_per_second", at_least=1.3)'
            )
        name = marker.args[0]
        phase = min(phases_of(item), default=None)
        threshold = read_threshold(name, phase, dict(marker.kwargs), where, source=f"marker {MARKER}")
        if threshold.kind == "equals":
            raise pytest.UsageError(f"{where}: equals is for counts; assert the count itself")
        if nodes.setdefault(name, node) is node and name in thresholds:
            raise pytest.UsageError(f"{where}: a second bound for {name}; keep one: within=(low, high) has two sides")
        thresholds.setdefault(name, threshold)  # the closest marker wins
    return thresholds


def threshold_lines(config: pytest.Config) -> list[str]:
    """A table of the session's thresholds and where each comes from: the package, where the project sets none."""
    settings = config.stash[PLUGIN_CONFIG]
    thresholds = thresholds_of(config) or _overridden(config, packaged_thresholds(config))
    unknown = [
        f"{source} {text!r}: no threshold of that name here; it counts only where a marker sets one"
        for source, text in settings.threshold_overrides
        if text.partition("=")[0].strip() not in thresholds
    ]
    rows = [("phase", "threshold", "bound", "from")]
    for threshold in sorted(thresholds.values(), key=lambda entry: (entry.phase or 0, entry.name)):
        rows.append((str(threshold.phase), threshold.name, str(threshold), threshold.source))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *unknown]
