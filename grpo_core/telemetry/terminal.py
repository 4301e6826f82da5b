"""The panels in the terminal: the newest values of the newest run, with sparklines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Box
from rich.table import Table
from rich.text import Text

from grpo_core.home import Home
from grpo_core.telemetry.panel_query import PanelResult, query_panels
from grpo_core.telemetry.panels import PANELS, Panel

_PROMINENT = (9, 10, 11)
_BARS = "▁▂▃▄▅▆▇█"
_MAX_SPARKS = 24


def watch(home: Home, interval_s: float = 1.0, console: Console | None = None) -> None:
    """Shows the panels and refreshes them every ``interval_s`` until Ctrl-C.

    Raises:
        MissingPackageError: duckdb is not installed.
    """
    try:
        with Live(render(home), console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                time.sleep(interval_s)
                live.update(render(home), refresh=True)
    except KeyboardInterrupt:
        return


def render(home: Home) -> RenderableType:
    """The newest values of all panels, 9 to 11 first.

    Raises:
        MissingPackageError: duckdb is not installed.
    """
    results = query_panels(PANELS, home.events)
    prominent = [_box(panel, results[panel.number]) for panel in PANELS if panel.number in _PROMINENT]
    others = [_box(panel, results[panel.number]) for panel in PANELS if panel.number not in _PROMINENT]
    return Group(Text(f"events of {home.events}", style="dim"), *prominent, Columns(others, equal=True))


def _box(panel: Panel, result: PanelResult) -> Box:
    important = panel.number in _PROMINENT
    title = f"{panel.number} {panel.title}"
    subtitle, body = _newest_run(panel, result) if result.rows else (None, Text("no events yet", style="dim"))
    return Box(
        body,
        title=Text(title, style="bold" if important else ""),
        subtitle=subtitle,
        title_align="left",
        border_style="cyan" if important else "dim",
        expand=important,
    )


def _newest_run(panel: Panel, result: PanelResult) -> tuple[str, RenderableType]:
    """One row per column and, where the panel has several lines, per line."""
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    newest = rows[-1]
    rows = [row for row in rows if row["run"] == newest["run"]]
    table = Table.grid(padding=(0, 2))
    for line in dict.fromkeys(row[panel.per] for row in rows) if panel.per else [None]:
        of_line = [row for row in rows if panel.per is None or row[panel.per] == line]
        for column in result.columns:
            if column in {"time", "run", panel.per}:
                continue
            name = column if line is None else f"{panel.per} {line} {column}"
            values = [row[column] for row in of_line]
            table.add_row(Text(name, style="dim"), Text(format_value(values[-1]), justify="right"), sparkline(values))
    return f"{newest['run']} at {newest['time']:%H:%M:%S} UTC", table


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
