"""Two versions side by side: the terminal's table of the quantities of each test, in ASCII."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_grpo.reports.table import GAP, Entry, describe_measured, describe_phase, plain
from pytest_grpo.types import AGAINST_SOURCE, Outcome, Row

COLORS = {Outcome.FASTER: "green", Outcome.SLOWER: "red", Outcome.INCONCLUSIVE: "yellow", Outcome.DIFFERS: "yellow"}


def version_rows(entries: Sequence[Entry]) -> list[Entry]:
    """The rows that compare two versions."""
    return [(nodeid, row) for nodeid, row in entries if row.outcome]


def compared_versions(rows: Sequence[Row]) -> str:
    """``here over main``"""
    other = rows[0].source.removeprefix(AGAINST_SOURCE)
    measured = next((row.arms for row in rows if row.arms), None)
    return f"{next(iter(measured)) if measured else 'here'} over {other}"


def version_lines(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Lines with their outcomes, which are at their ends; the line above the rows of a test has none."""
    metric_width = max(len(plain(row.metric)) for _, row in entries)
    measured_width = max(len(_measured(row)) for _, row in entries)
    lines, last = [], ""
    for nodeid, row in entries:
        if nodeid != last:
            phase = "" if row.phase is None else f"phase {describe_phase(row)}  "
            lines.append((f"{phase}{plain(nodeid.rpartition('::')[2])}", ""))
            last = nodeid
        cells = [f"  {plain(row.metric).ljust(metric_width)}", _measured(row).ljust(measured_width), row.outcome]
        lines.append((GAP.join(cells), row.outcome))
        if row.reason:
            lines.append((f"    {plain(row.reason)}", ""))
    return lines


def count_outcomes(entries: Sequence[Entry]) -> str:
    """``2 faster, 1 slower, 14 same``"""
    found = [row.outcome for _, row in entries]
    return ", ".join(f"{found.count(outcome)} {outcome}" for outcome in Outcome if outcome in found)


def _measured(row: Row) -> str:
    return plain(describe_measured(row))
