"""The rows of a test that runs on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_grpo.against.judging import bounds, judge_count
from pytest_grpo.measuring.statistics.sign_test import Estimate
from pytest_grpo.types import AGAINST_SOURCE, PROPERTY_PREFIX, Conditions, Outcome, Row, Verdict

WHOLE_TEST = "all arms"
"""Stands for the metric in a row about a whole test."""

Reports = Sequence[Mapping[str, Any]]
"""A test's reports, as a worker has sent them."""


@dataclass(frozen=True, slots=True)
class RowWriter:
    """Writes rows of one test."""

    phase: int | None
    device: str
    tolerance: float
    other: str
    """The name of the other side."""

    def row(
        self,
        metric: str,
        outcome: Outcome,
        verdict: Verdict,
        *,
        reason: str = "",
        measured: float = float("nan"),
        estimate: Estimate | None = None,
        quantity: str | None = None,
        ratios: list[float] | None = None,
        arms: dict[str, dict[str, list[float]]] | None = None,
        conditions: Conditions | None = None,
        duration_s: float = 0.0,
    ) -> Row:
        """A row about ``metric``; with an ``estimate`` from pairs."""
        low, high = bounds(self.tolerance)
        return Row(
            metric=metric,
            phase=self.phase,
            kind="within",
            bound_low=low,
            bound_high=high,
            threshold=f"{low:.3g}..{high:.3g}",
            source=f"{AGAINST_SOURCE}{self.other}",
            unit="",
            verdict=verdict.value,
            reason=reason,
            measured=measured,
            device=self.device,
            low=None if estimate is None else estimate.low,
            high=None if estimate is None else estimate.high,
            confidence=None if estimate is None else estimate.confidence,
            num_pairs=None if estimate is None else estimate.num_pairs,
            ratios=ratios,
            quantity=quantity,
            arms=arms,
            conditions=None if conditions is None else asdict(conditions),
            duration_s=duration_s,
            outcome=outcome.value,
        )

    def missing(self, arm: str, outcome: Outcome) -> Row:
        """The row for an arm that only one side has."""
        return self.row(f"{arm}.seconds", outcome, Verdict.PASS, reason=f"arm {arm} is {outcome}")

    def not_compared(self, why: str) -> Row:
        """The row for a test that cannot be compared."""
        reason = f"cannot be compared: {why}"
        return self.row(WHOLE_TEST, Outcome.NOT_COMPARED, Verdict.INCONCLUSIVE, reason=reason)

    def exact_rows(self, here: Reports, other: Reports) -> list[Row]:
        """A row for each exact value that differs between the sides."""
        theirs = {row.metric: row for row in rows_in(other) if row.num_pairs is None}
        rows = []
        for row in rows_in(here):
            before = theirs.get(row.metric)
            if row.num_pairs is not None or before is None or row.measured == before.measured:
                continue
            outcome = judge_count(row.measured, before.measured)
            reason = f"{row.measured:g} here, {before.measured:g} in {self.other}"
            rows.append(self.row(row.metric, outcome, Verdict.PASS, reason=reason))
        return rows

    def failed_there(self, other: Reports, rows: Sequence[Row]) -> list[Row]:
        """A row when the test failed on the other side, unless an arm's error is a row already."""
        failed = [report["longrepr"] for report in other if report["outcome"] == "failed"]
        if not failed or any(row.outcome == Outcome.NOT_COMPARED and row.metric == WHOLE_TEST for row in rows):
            return []
        is_error = isinstance(failed[0], Mapping)  # else the text that pytest.fail was given
        said = failed[0]["reprcrash"]["message"] if is_error and failed[0]["reprcrash"] else str(failed[0])
        first_line, _, _ = said.strip().partition("\n")
        reason = f"{self.other}: {first_line}"
        return [self.row(WHOLE_TEST, Outcome.FAILS_THERE, Verdict.PASS, reason=reason)]


def describe(row: Row) -> str:
    """``step.tokens_per_second: slower: 0.88 [0.86, 0.91]``"""
    text = f"{row.metric}: {row.outcome}"
    if row.low is not None and row.high is not None:
        text += f": {row.measured:.3g} [{row.low:.3g}, {row.high:.3g}]"
    return f"{text}: {row.reason}" if row.reason else text


def rows_in(reports: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of the last of a test's reports, which has them all."""
    properties = reports[-1]["user_properties"] if reports else []
    return [Row.from_property(text) for name, text in properties if name.startswith(PROPERTY_PREFIX)]


def unless_moved(row: Row) -> Row:
    """``row``; a change is unproven where nothing that its test loads differs between the sides."""
    if row.outcome not in (Outcome.FASTER, Outcome.SLOWER, Outcome.MORE, Outcome.LESS):
        return row
    reason = "unproven: no file that this test loads differs between the sides, so something else moved"
    return replace(row, outcome=Outcome.INCONCLUSIVE.value, verdict=Verdict.INCONCLUSIVE.value, reason=reason)
