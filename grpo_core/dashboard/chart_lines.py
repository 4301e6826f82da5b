"""The lines of a run's charts as the page gets them: numbers of its events by step or by time."""

from __future__ import annotations

from typing import Any

import numpy as np

from grpo_core.dashboard.charts import CHARTS, Chart, Line
from grpo_core.dashboard.columns import Float64, Table, binned, newest_of_each, rounded
from grpo_core.dashboard.run_data import RunData


def charts_json(run: RunData) -> list[dict[str, Any]]:
    """The charts that have a number, with at most some hundred points per line."""
    drawn = [(chart, _lines_json(chart, run)) for chart in CHARTS]
    return [_chart_json(chart) | {"lines": lines} for chart, lines in drawn if lines]


def _chart_json(chart: Chart) -> dict[str, Any]:
    return {
        "id": chart.id,
        "section": chart.section,
        "title": chart.title,
        "unit": chart.unit,
        "axis": chart.axis,
        "zero": chart.zero,
        "panel": chart.panel,
        "note": chart.note,
    }


def _lines_json(chart: Chart, run: RunData) -> list[dict[str, Any]]:
    lines = []
    names = run.table_names(chart.kind)
    for name in names:
        table = run.table(name)
        assert table is not None
        x = table[chart.x] if chart.axis == "step" else table["time"] - (run.started_s or 0.0)
        chosen = newest_of_each(x) if chart.axis == "step" else ~np.isnan(x)
        part = f" {name.rpartition('/')[2]}" if len(names) > 1 else ""  # a device or a reward function
        for line in chart.lines:
            values = line.values(table)[chosen]
            if not np.isnan(values).all():
                lines.append(_line_json(line, part, x[chosen], values, table, chosen))
    return lines


def _line_json(
    line: Line, part: str, x: Float64, values: Float64, table: Table, chosen: np.ndarray[Any, Any]
) -> dict[str, Any]:
    shown = {"label": f"{line.label}{part}", "limit": line.is_limit, **binned(x, values).as_json()}
    if line.interval is not None:
        ends = (binned(x, table[field][chosen] * line.factor).mean for field in line.interval)
        shown |= dict(zip(("low", "high"), map(rounded, ends), strict=True))
    if line.spread is not None:
        half = binned(x, table[line.spread][chosen] * line.factor).mean
        mean = binned(x, values).mean
        shown |= {"low": rounded(mean - half), "high": rounded(mean + half)}
    return shown
