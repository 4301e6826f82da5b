"""The panels in the terminal: the newest values of one run, with sparklines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel as Box
from rich.table import Table
from rich.text import Text

from grpo_core.errors import ConfigError
from grpo_core.home import Home, check_name, is_name
from grpo_core.telemetry.panels.panels import PANELS, Panel
from grpo_core.telemetry.panels.query import PanelResult, query_panels

_PROMINENT = (9, 10, 11)
_BARS = "▁▂▃▄▅▆▇█"
_MAX_SPARKS = 24
_GLANCE: Sequence[tuple[int, str, str]] = (
    (1, "step", "step"),
    (1, "reward_mean", "reward"),
    (2, "loss", "loss"),
    (4, "step_s", "step time, s"),
    (10, "tokens_per_second", "tokens/s"),
    (11, "policy_lag_steps", "policy lag"),
    (11, "buffer_depth", "buffer depth"),
    (9, "utilization_percent", "use, %"),
)
"""Panel, column and words of what stands first: it fits into the smallest window."""


def render(home: Home, run: str | None = None) -> RenderableType:
    """The newest values of ``run``, at a glance and then by panel, 9 to 11 first. Without ``run`` of the one whose
    events are the newest.

    Raises:
        ConfigError: there are no events of ``run``.
        MissingPackageError: duckdb is not installed.
    """
    shown = _newest_run(home) if run is None else _known_run(home, run)
    results = query_panels(PANELS, home.events, run=shown)
    prominent = [_box(panel, results[panel.number]) for panel in PANELS if panel.number in _PROMINENT]
    others = [_box(panel, results[panel.number]) for panel in PANELS if panel.number not in _PROMINENT]
    head = Text(f"run {shown}" if shown else f"no events in {home.events}", style="bold" if shown else "dim")
    return Group(head, _glance(results), *prominent, Columns(others, equal=True))


def _newest_run(home: Home) -> str | None:
    found = []
    for path in home.events.glob("*.jsonl"):
        with suppress(OSError):  # removed meanwhile
            found.append((path.stat().st_mtime, path.stem))
    return max((run for run in found if is_name(run[1])), default=(0.0, None))[1]


def _known_run(home: Home, run: str) -> str:
    if not (home.events / f"{check_name(run, 'run')}.jsonl").is_file():
        present = ", ".join(sorted(path.stem for path in home.events.glob("*.jsonl"))) or "none"
        raise ConfigError(f"--run {run}: no events of it in {home.events}; runs there: {present}")
    return run


def _glance(results: Mapping[int, PanelResult]) -> Table:
    table = Table.grid(padding=(0, 2))
    for number, column, words in _GLANCE:
        result = results[number]
        place = result.columns.index(column)
        values = [row[place] for row in result.rows]
        if any(value is not None for value in values):
            table.add_row(Text(words, style="dim"), Text(format_value(values[-1]), justify="right"), sparkline(values))
    return table


def _box(panel: Panel, result: PanelResult) -> Box:
    important = panel.number in _PROMINENT
    title = f"{panel.number} {panel.title}"
    subtitle, body = _newest_values(panel, result) if result.rows else (None, Text("no events yet", style="dim"))
    return Box(
        body,
        title=Text(title, style="bold" if important else ""),
        subtitle=subtitle,
        title_align="left",
        border_style="cyan" if important else "dim",
        expand=important,
    )


def _newest_values(panel: Panel, result: PanelResult) -> tuple[str, RenderableType]:
    """When the last event was; a row per column and, where the panel has several lines, per line."""
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    newest = rows[-1]
    table = Table.grid(padding=(0, 2))
    for line in dict.fromkeys(row[panel.per] for row in rows) if panel.per else [None]:
        of_line = [row for row in rows if panel.per is None or row[panel.per] == line]
        for column in result.columns:
            if column in {"time", "run", panel.per}:
                continue
            name = column if line is None else f"{panel.per} {line} {column}"
            values = [row[column] for row in of_line]
            table.add_row(Text(name, style="dim"), Text(format_value(values[-1]), justify="right"), sparkline(values))
    return f"{newest['time']:%H:%M:%S} UTC", table


def format_value(value: Any) -> str:
    """A number in at most seven or so characters; ``-`` for null."""
    if value is None:
        return "-"
    if isinstance(value, bool | str | datetime):
        return str(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.2f}{suffix}"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def sparkline(values: Sequence[Any]) -> str:
    """The newest numbers of ``values`` as bars between their least and greatest. Empty when they do not vary."""
    numbers = [float(value) for value in values if isinstance(value, int | float)][-_MAX_SPARKS:]
    if not numbers or min(numbers) == max(numbers):
        return ""
    low, high = min(numbers), max(numbers)
    return "".join(_BARS[round((number - low) / (high - low) * (len(_BARS) - 1))] for number in numbers)
