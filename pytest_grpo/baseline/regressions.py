"""Did a gate's ratio get worse between two sessions?

Each ratio comes from one session, so a slower machine affects both arms and cancels out. Absolute numbers are shown
and never judged. A gate regressed when its ratio is worse than the tolerance allows, by the exact Mann-Whitney test at
1 % after Holm's correction over all gates. An improvement is no regression. A gate with a band as its threshold is not
judged, because neither direction is worse.

The 1 % holds for a gate that got worse by exactly the tolerance, with a fixed number of pairs. Gates stop sampling once
they are decided. Simulations that include this optional stopping give up to 3 %, and 0.05 % for an unchanged gate.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_grpo.baseline.fingerprint import check_same
from pytest_grpo.baseline.location_shift import estimate_shift, p_value_above, p_value_below, smallest_p_value
from pytest_grpo.measuring.stats import FAMILY_ALPHA, holm
from pytest_grpo.reports.references import with_references
from pytest_grpo.settings.config import DEFAULT_TOLERANCE
from pytest_grpo.settings.thresholds import format_number
from pytest_grpo.types import Row

if TYPE_CHECKING:
    from pytest_grpo.baseline.files import Baseline

CONFIDENCE = 1 - 2 * FAMILY_ALPHA
"""Of the intervals shown: each side is the one-sided test of a single gate."""

Results = Sequence[tuple[str, Row]]


class Outcome(enum.StrEnum):
    """How a gate changed since the baseline."""

    REGRESSION = "regression"
    NO_REGRESSION = "no regression"
    UNDECIDED = "undecided"
    """The interval covers both a regression and none; more pairs can decide."""
    TOO_FEW = "too few pairs"
    """The interval does not exclude a regression, and so few pairs cannot prove one, whatever they measure."""
    SHOWN = "shown only"
    """A plain number, or a band: only its own threshold judges it."""
    ONLY_BEFORE = "only before"
    ONLY_NOW = "only now"


@dataclass(frozen=True, slots=True)
class Change:
    """One gate before and now. ``factor`` is the ratio now over the ratio before, ``low`` to ``high`` its interval."""

    nodeid: str
    before: Row | None
    now: Row | None
    outcome: Outcome
    tolerance: float
    factor: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    p_value: float | None = None
    """Of the hypothesis "not worse than the tolerance allows"."""

    @property
    def row(self) -> Row:
        row = self.now or self.before
        assert row is not None
        return row

    @property
    def change_text(self) -> str:
        return "-" if self.factor is None else _percent(self.factor)

    @property
    def interval_text(self) -> str:
        return "-" if self.low is None or self.high is None else f"[{_percent(self.low)}, {_percent(self.high)}]"

    @property
    def pairs_text(self) -> str:
        """Before and now."""
        return "/".join(str(len(row.ratios or ())) for row in (self.before, self.now) if row)

    def describe(self) -> str:
        """One line, e.g. for the failure message of a test."""
        text = f"{self.row.metric}: {self.outcome}"
        if self.before is None or self.now is None or self.factor is None:
            return text
        return (
            f"{text}: {format_number(self.before.measured)} before, {format_number(self.now.measured)} now: "
            f"{self.change_text} {self.interval_text} from {self.pairs_text} pairs; "
            f"{100 * self.tolerance:g} % worse is tolerated"
        )


def compare_rows(current: Results, baseline: Results, tolerance: float = DEFAULT_TOLERANCE) -> list[Change]:
    """What changed for each gate of either, in the order of ``current``; those only in ``baseline`` come last.

    A gate is one metric of one system in one test. Of a gate that a test decides twice, the last row counts. Where a
    gate has an arm ``reference``, each other arm over it counts as a gate, too: it shows a loss that all arms share.
    """
    before, now = _by_gate(baseline), _by_gate(current)
    changes = [_measure(gate[0], before.get(gate), now.get(gate), tolerance) for gate in (now | before)]
    judged = [place for place, change in enumerate(changes) if change.p_value is not None]
    rejected = holm([p for change in changes if (p := change.p_value) is not None], FAMILY_ALPHA)
    for place, is_regression in zip(judged, rejected, strict=True):
        changes[place] = _decide(changes[place], is_regression=is_regression, alpha=FAMILY_ALPHA / len(judged))
    return changes


def judge_against(
    row: Row, nodeid: str, baseline: Baseline, tolerance: float = DEFAULT_TOLERANCE, *, any_machine: bool = False
) -> Change | None:
    """What changed for one gate since ``baseline``, before the session's other gates are known.

    Each gate gets an equal share of the family's alpha (Bonferroni), slightly stricter than Holm's correction. None
    when the baseline has no such gate.

    Raises:
        pytest.UsageError: the devices differ, unless ``any_machine``.
    """
    gates = _by_gate(baseline.results)
    before = gates.get(_gate(nodeid, row))
    if before is None:
        return None
    if not any_machine:
        check_same(f"baseline {baseline.name!r}", differing_devices([(nodeid, before)], [(nodeid, row)]))
    change = _measure(nodeid, before, row, tolerance)
    if change.p_value is None:
        return change
    alpha = FAMILY_ALPHA / sum(_worse_side(row) is not None for row in gates.values())
    return _decide(change, is_regression=change.p_value <= alpha, alpha=alpha)


def differing_devices(baseline: Results, current: Results) -> list[str]:
    """As ``differing``: the gates in both results that ran on different devices, e.g. one here and one on Modal."""
    before = _by_gate(baseline)
    return [
        f"device of {row.metric}: {before[gate].device} / {row.device}"
        for gate, row in _by_gate(current).items()
        if gate in before and before[gate].device != row.device
    ]


def _gate(nodeid: str, row: Row) -> tuple[str, str, str]:
    return nodeid, row.system, row.metric


def _by_gate(results: Results) -> dict[tuple[str, str, str], Row]:
    """The rows, and those of their arms over a reference arm."""
    return {_gate(nodeid, row): row for nodeid, row in with_references(results)}


def _worse_side(row: Row) -> int | None:
    """-1 when a smaller ratio is worse, 1 when a larger one is, None when neither is."""
    return {"at_least": -1, "at_most": 1}.get(row.kind) if row.ratios else None


def _measure(nodeid: str, before: Row | None, now: Row | None, tolerance: float) -> Change:
    """The change with its interval; with a p-value when the gate is to be judged."""
    if before is None or now is None:
        outcome = Outcome.ONLY_NOW if before is None else Outcome.ONLY_BEFORE
        return Change(nodeid, before, now, outcome, tolerance)
    if not before.ratios or not now.ratios:
        return Change(nodeid, before, now, Outcome.SHOWN, tolerance)
    x, y = [math.log(ratio) for ratio in now.ratios], [math.log(ratio) for ratio in before.ratios]
    shift = estimate_shift(x, y, CONFIDENCE)
    change = Change(
        nodeid,
        before,
        now,
        Outcome.SHOWN,
        tolerance,
        factor=math.exp(shift.estimate),
        low=math.exp(shift.low),
        high=math.exp(shift.high),
        confidence=shift.confidence,
    )
    side = _worse_side(now)
    if side is None:
        return change
    if smallest_p_value(len(x), len(y)) > FAMILY_ALPHA:
        return replace(change, outcome=Outcome.TOO_FEW)
    p_value = p_value_below if side < 0 else p_value_above
    return replace(change, p_value=p_value(x, y, math.log1p(side * tolerance)))


def _decide(change: Change, *, is_regression: bool, alpha: float) -> Change:
    """``alpha`` is the significance level of this gate when no other gate regressed."""
    if is_regression:
        return replace(change, outcome=Outcome.REGRESSION)
    assert change.low is not None
    assert change.high is not None
    assert change.before is not None
    assert change.now is not None
    is_lower_worse = _worse_side(change.now) == -1
    if change.low >= 1 - change.tolerance if is_lower_worse else change.high <= 1 + change.tolerance:
        return replace(change, outcome=Outcome.NO_REGRESSION)
    best = smallest_p_value(len(change.now.ratios or ()), len(change.before.ratios or ()))
    return replace(change, outcome=Outcome.TOO_FEW if best > alpha else Outcome.UNDECIDED)


def _percent(factor: float) -> str:
    return f"{100 * (factor - 1):+.1f} %"
