"""The arms of a row over its reference arm: what stays comparable when all arms of a gate become slower together.

A gate measures ``step`` and, in the same rounds, an arm ``reference`` that does pinned work. Its own ratio is between
two arms of one build. ``step/reference`` is derived from what the row stores, as a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pytest_grpo.measuring.statistics.sign_test import interval
from pytest_grpo.reports.table import Entry
from pytest_grpo.types import REFERENCE_ARM, Row, Verdict

SECONDS = "seconds"


def reference_rows(row: Row) -> list[Row]:
    """One row for each arm that was measured with a reference: the seconds of its samples over the reference's."""
    arms = (row.arms or {}) if not row.outcome else {}  # those of a comparison of versions are its sides
    pinned = arms.get(REFERENCE_ARM, {}).get(SECONDS)
    if not pinned:
        return []
    rows = []
    for arm, quantities in arms.items():
        if arm == REFERENCE_ARM:
            continue
        ratios = [mine / its for mine, its in zip(quantities[SECONDS], pinned, strict=True)]
        found = interval(ratios)
        derived = replace(
            row,
            metric=f"{row.metric}:{arm}/{REFERENCE_ARM}",
            kind="at_most",
            bound_low=None,
            bound_high=None,
            threshold="none",
            source="shown",
            unit="",
            verdict=Verdict.PASS.value,
            reason="",
            measured=found.median,
            low=found.low,
            high=found.high,
            confidence=found.confidence,
            num_pairs=len(ratios),
            ratios=ratios,
            quantity=None,
            arms=None,
        )
        rows.append(derived)
    return rows


def with_references(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, each followed by the rows of its arms over its reference."""
    return [(nodeid, each) for nodeid, row in entries for each in (row, *reference_rows(row))]
