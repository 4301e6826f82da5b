"""A session that decided too little is not green."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_grpo.reports.table import plain
from pytest_grpo.types import Row, Verdict


def too_many_inconclusive(rows: Sequence[Row]) -> str:
    """A line for the user when more than half of the timing gates are inconclusive; else empty."""
    timing = [row for row in rows if row.num_pairs is not None and not row.metric.endswith("_bytes")]
    undecided = [plain(row.metric) for row in timing if row.verdict == Verdict.INCONCLUSIVE]
    if 2 * len(undecided) <= len(timing):
        return ""
    gates = "timing gate is" if len(timing) == 1 else "timing gates are"
    return (
        f"grpo: {len(undecided)} of {len(timing)} {gates} inconclusive: {', '.join(undecided)}; "
        "run on a quieter machine; --grpo-inconclusive xfail accepts them"
    )
