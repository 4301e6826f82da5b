"""Rows as text: the measurement of each, and the terminal's table of all, in ASCII."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from pytest_grpo.settings.thresholds import format_number
from pytest_grpo.types import NOT_APPLICABLE, RATE_SUFFIX, Absence, Row, Verdict

GAP = "  "
MIN_METRIC_WIDTH = 8
ELLIPSIS = "..."
VERSUS_PREFIX = "versus_"

Entry = tuple[str, Row]
"""A node id and one of its rows."""
Absent = tuple[str, Absence]
"""A node id, and why its test does not apply."""


def table_lines(rows: Sequence[Row], width: int) -> list[str]:
    """A header and one line per row, none longer than ``width``.

    To fit, it drops in this order: intervals, the threshold, the middle of the metric's name, the phase.
    """
    columns = _columns(rows, with_interval=True)
    if _width(columns) > width:
        columns = _columns(rows, with_interval=False)
    if _width(columns) > width:
        del columns["threshold"]
    if _width(columns) - _widest(columns["metric"]) + MIN_METRIC_WIDTH > width:
        del columns["phase"]
    room = width - _width(columns) + _widest(columns["metric"])
    columns["metric"] = [_shortened(cell, max(room, MIN_METRIC_WIDTH)) for cell in columns["metric"]]
    padded = [[cell.ljust(_widest(cells)) for cell in cells] for cells in columns.values()]
    return [GAP.join(line).rstrip()[:width] for line in zip(*padded, strict=True)]


def versus_lines(rows: Sequence[Row]) -> list[str]:
    """Two systems side by side: for each gate that compares them, both medians and the ratio."""
    lines = []
    for row in rows:
        if not row.metric.startswith(VERSUS_PREFIX) or not row.arms or row.quantity is None:
            continue
        speeds = [f"{plain(arm)} {format_number(_middle(arm_quantity(row, arm)))}" for arm in row.arms]
        lines.append(f"{row.quantity}: {' against '.join(speeds)}: {describe_measured(row)} times")
    return lines


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def reason_lines(rows: Sequence[Row]) -> list[str]:
    """One line for each row that is not a pass, with the reason."""
    return [f"{row.verdict}: {_name(row, rows)}: {plain(row.reason)}" for row in rows if row.verdict != Verdict.PASS]


def absence_lines(absences: Iterable[Absent]) -> list[str]:
    """One line for each test that does not apply, by its node id: the phase, the test and the reason."""
    return [
        f"{NOT_APPLICABLE}: phase {absence.phase} {plain(name_of_test(nodeid))}: {plain(absence.reason)}"
        for nodeid, absence in absences
    ]


def name_of_test(nodeid: str) -> str:
    """What stands after the file in a test's node id, without ``test_``."""
    return (nodeid.partition("::")[2] or nodeid).removeprefix("test_")


def count_verdicts(rows: Iterable[Row], num_absences: int = 0) -> str:
    """``3 pass, 0 fail, 1 inconclusive``, and how many tests do not apply."""
    verdicts = [row.verdict for row in rows]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict]
    return ", ".join([*counts, *([f"{num_absences} {NOT_APPLICABLE}"] if num_absences else [])])


def describe_measured(row: Row, *, with_interval: bool = True) -> str:
    """``2.41 x [2.3, 2.55]``, or ``-`` when nothing was measured."""
    if math.isnan(row.measured):
        return "-"
    text = f"{format_number(row.measured)} {row.unit}".rstrip()
    text = f"{text} ({row.note})" if row.note else text
    return f"{text} {describe_interval(row)}".rstrip() if with_interval else text


def describe_interval(row: Row) -> str:
    """``[2.3, 2.55]``; empty when there is none."""
    ends = interval(row)
    return "" if ends is None else f"[{format_number(ends[0])}, {format_number(ends[1])}]"


def interval(row: Row) -> tuple[float, float] | None:
    """The ends of the median's interval. They are infinite when too few pairs bound it."""
    if row.low is None or row.high is None or math.isnan(row.low) or math.isnan(row.high):
        return None
    return row.low, row.high


def describe_phase(row: Row) -> str:
    return "-" if row.phase is None else str(row.phase)


def has_many_systems(rows: Iterable[Row]) -> bool:
    return len({row.system for row in rows}) > 1


def arm_quantity(row: Row, arm: str) -> list[float]:
    """The compared quantity of an arm, per pair; its seconds when the arm lacks that quantity.

    ``tokens_per_second`` is ``tokens`` over ``seconds`` unless the arm measured the rate itself.
    """
    values = (row.arms or {})[arm]
    quantity = row.quantity or "seconds"
    counted = quantity.removesuffix(RATE_SUFFIX)
    if quantity not in values and quantity != counted and counted in values:
        return [count / seconds for count, seconds in zip(values[counted], values["seconds"], strict=True)]
    return values.get(quantity, values["seconds"])


def plain(text: str) -> str:
    """``text`` on one line of ASCII, with other characters escaped."""
    return " ".join(text.split()).encode("unicode_escape").decode("ascii")


def _columns(rows: Sequence[Row], *, with_interval: bool) -> dict[str, list[str]]:
    columns = {
        "phase": [describe_phase(row) for row in rows],
        "metric": [row.metric for row in rows],
        "system": [row.system or "-" for row in rows],
        "measured": [describe_measured(row, with_interval=with_interval) for row in rows],
        "threshold": [row.threshold for row in rows],
        "verdict": [row.verdict for row in rows],
    }
    if not has_many_systems(rows):
        del columns["system"]
    return {name: [name, *map(plain, cells)] for name, cells in columns.items()}


def _width(columns: dict[str, list[str]]) -> int:
    return sum(map(_widest, columns.values())) + len(GAP) * (len(columns) - 1)


def _widest(cells: Iterable[str]) -> int:
    return max(map(len, cells))


def _shortened(text: str, room: int) -> str:
    """Cut the middle, so that names with a common prefix or suffix stay distinct."""
    if len(text) <= room:
        return text
    kept = room - len(ELLIPSIS)
    return text[: kept - kept // 2] + ELLIPSIS + text[len(text) - kept // 2 :]


def _name(row: Row, rows: Sequence[Row]) -> str:
    return plain(f"{row.metric} ({row.system})" if row.system and has_many_systems(rows) else row.metric)
