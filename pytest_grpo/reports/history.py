"""Earlier sessions, and their rows of a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_grpo.reports.table import Entry
from pytest_grpo.types import Row

MAX_RUNS = 30
"""The number of latest saved runs shown per gate."""


@dataclass(frozen=True, slots=True)
class SavedRun:
    """The rows of an earlier session. ``created_at`` is UTC, ISO 8601; ``commit`` is empty outside of git."""

    name: str
    created_at: str
    commit: str
    rows: Sequence[Entry]


def runs_of(entry: Entry, history: Sequence[SavedRun]) -> list[tuple[SavedRun, Row]]:
    """The saved runs that measured this gate, each with its row."""
    nodeid, row = entry
    return [
        (run, earlier)
        for run in history
        for earlier_nodeid, earlier in run.rows
        if (earlier_nodeid, earlier.metric, earlier.system_key) == (nodeid, row.metric, row.system_key)
        and not math.isnan(earlier.measured)
    ][-MAX_RUNS:]
