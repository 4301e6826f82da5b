"""Did a gate's ratio get worse between two sessions?

Each ratio comes from one session, so a slower machine affects both arms and cancels out. Absolute numbers are shown
and never judged. A gate regressed when its ratio is worse than the tolerance allows by more than chance explains, at
1 % after Holm's correction over all gates. Chance is of two kinds, and both must be excluded: that of pairs, by the
exact Mann-Whitney test, and that of sessions, by the prediction interval of the stored sessions
(``session_spread``). An improvement is no regression. A gate with a band as its threshold is not judged, because
neither direction is worse. Pairs that cannot be trusted (a fired A/A control) are not judged either.

A gate samples on until it is decided or more pairs cannot decide it (``is_baseline_decided``).
"""

from __future__ import annotations

import enum
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_grpo.baseline.fingerprint import check_same
from pytest_grpo.baseline.location_shift import estimate_shift, p_value_above, p_value_below, smallest_p_value
from pytest_grpo.baseline.session_spread import Prediction, predict
from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA, holm
from pytest_grpo.reports.references import reference_rows
from pytest_grpo.settings.option_values import DEFAULT_TOLERANCE
from pytest_grpo.settings.thresholds import format_number
from pytest_grpo.types import Row

if TYPE_CHECKING:
    from pytest_grpo.baseline.files import Baseline

CONFIDENCE = 1 - 2 * FAMILY_ALPHA
"""Of the intervals shown: each side is the one-sided test of a single gate."""

Results = Sequence[tuple[str, Row]]
Gate = tuple[str, str, str, int]
"""Test, system, metric, and how many gates of that metric the test decided before this one."""


class Outcome(enum.StrEnum):
    """How a gate changed since the baseline."""

    REGRESSION = "regression"
    NO_REGRESSION = "no regression"
    UNDECIDED = "undecided"
    """The interval covers both a regression and none; more pairs or more stored sessions can decide."""
    TOO_FEW = "too few pairs"
    """The interval does not exclude a regression, and so few pairs cannot prove one, whatever they measure."""
    NOT_TRUSTED = "not trusted"
    """The machine was too noisy in this session or in the stored one, by the A/A control for example."""
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
    prediction: Prediction | None = None
    pairs_error: float = 0.0
    """How far the log of ``factor`` may be off by the chance of pairs alone, at ``CONFIDENCE``."""

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
            f"{100 * self.tolerance:g} % worse is tolerated; {self.prediction.describe() if self.prediction else ''}"
        )

    @property
    def worse_by(self) -> float:
        """How much worse than tolerated, as a log; negative when it is not."""
        side = _worse_side(self.row)
        assert side is not None
        assert self.factor is not None
        return side * (math.log(self.factor) - math.log1p(side * self.tolerance))


def compare_rows(
    current: Results, baseline: Results, tolerance: float = DEFAULT_TOLERANCE, others: Sequence[Results] = ()
) -> list[Change]:
    """What changed for each gate of either, in the order of ``current``; those only in ``baseline`` come last.

    ``others`` are further sessions of the baseline's code. A gate is one metric of one system in one test. A test that
    decides several of one name, e.g. in a loop over batch sizes, has as many gates, in its order. Where a gate has
    an arm ``reference``, each other arm over it counts as a gate, too: it shows a loss that all arms share.
    """
    before, now = _by_gate(baseline), _by_gate(current)
    more = [_by_gate(results) for results in others]
    changes = [
        _measure(gate[0], [before.get(gate), *(rows.get(gate) for rows in more)], now.get(gate), tolerance)
        for gate in (now | before)
    ]
    judged = [place for place, change in enumerate(changes) if change.p_value is not None]
    rejected = holm([p for change in changes if (p := change.p_value) is not None], FAMILY_ALPHA)
    for place, is_regression in zip(judged, rejected, strict=True):
        changes[place] = _decide(changes[place], is_regression=is_regression, alpha=FAMILY_ALPHA / len(judged))
    return changes


def judge_against(
    row: Row,
    nodeid: str,
    baseline: Baseline,
    tolerance: float = DEFAULT_TOLERANCE,
    *,
    place: int = 0,
    others: Sequence[Baseline] = (),
    any_machine: bool = False,
) -> Change | None:
    """What changed for one gate since ``baseline``, before the session's other gates are known.

    ``place`` counts the gates of the same metric that the test decided before this one.

    Each gate gets an equal share of the family's alpha (Bonferroni), slightly stricter than Holm's correction. None
    when the baseline has no such gate.

    Raises:
        pytest.UsageError: the devices differ, unless ``any_machine``.
    """
    gates, gate = _by_gate(baseline.results), (nodeid, row.system_key, row.metric, place)
    before = gates.get(gate)
    if before is None:
        return None
    if not any_machine:
        check_same(f"baseline {baseline.name!r}", differing_devices([(nodeid, before)], [(nodeid, row)]))
    change = _measure(nodeid, [before, *(_by_gate(other.results).get(gate) for other in others)], row, tolerance)
    if change.p_value is None:
        return change
    alpha = _share_of_alpha(baseline)
    return _decide(change, is_regression=change.p_value <= alpha, alpha=alpha)


def is_baseline_decided(change: Change | None, baseline: Baseline) -> bool:
    """Whether more pairs of this session cannot change the outcome of ``change``.

    Between a regression and none lies a zone in which only more stored sessions decide.
    """
    if change is None or change.outcome not in (Outcome.UNDECIDED, Outcome.TOO_FEW):
        return True
    if change.prediction is None or change.p_value is None:
        return False
    alpha = _share_of_alpha(baseline)
    for distance, chance in ((change.worse_by, alpha), (-change.worse_by, FAMILY_ALPHA)):
        if distance + change.pairs_error > change.prediction.margin(chance, of_pairs=False):
            return False
    return True


def _share_of_alpha(baseline: Baseline) -> float:
    """The significance level of each gate when none regressed."""
    return FAMILY_ALPHA / sum(_worse_side(row) is not None for row in _by_gate(baseline.results).values())


def differing_devices(baseline: Results, current: Results) -> list[str]:
    """As ``differing``: the gates in both results that ran on different devices, e.g. one here and one on Modal."""
    before = _by_gate(baseline)
    return [
        f"device of {row.metric}: {before[gate].device} / {row.device}"
        for gate, row in _by_gate(current).items()
        if gate in before and before[gate].device != row.device
    ]


def _by_gate(results: Results) -> dict[Gate, Row]:
    """The rows, and those of their arms over a reference arm."""
    num_before: Counter[tuple[str, str, str]] = Counter()
    gates: dict[Gate, Row] = {}
    for nodeid, row in results:
        name = nodeid, row.system_key, row.metric
        for each in (row, *reference_rows(row)):
            gates[nodeid, row.system_key, each.metric, num_before[name]] = each
        num_before[name] += 1
    return gates


def _worse_side(row: Row) -> int | None:
    """-1 when a smaller ratio is worse, 1 when a larger one is, None when neither is."""
    return {"at_least": -1, "at_most": 1}.get(row.kind) if row.ratios else None


def _measure(nodeid: str, stored: Sequence[Row | None], now: Row | None, tolerance: float) -> Change:
    """The change since ``stored[0]`` with its interval; with a p-value when the gate is to be judged. The other stored
    rows are of the same code."""
    before = stored[0]
    if before is None or now is None:
        outcome = Outcome.ONLY_NOW if before is None else Outcome.ONLY_BEFORE
        return Change(nodeid, before, now, outcome, tolerance)
    if not before.ratios or not now.ratios:
        return Change(nodeid, before, now, Outcome.SHOWN, tolerance)
    if not (_is_trusted(before) and _is_trusted(now)):
        return Change(nodeid, before, now, Outcome.NOT_TRUSTED, tolerance)
    x = _logs(now)
    sessions = [_logs(row) for row in stored if row is not None and row.ratios and _is_trusted(row)]
    prediction = predict(x, sessions)
    # All stored pairs around the common center: their scatter within a session is that of pairs.
    y = [value - statistics.median(logs) + prediction.center for logs in sessions for value in logs]
    shift = estimate_shift(x, y, CONFIDENCE)
    margin = prediction.margin(FAMILY_ALPHA)
    change = Change(
        nodeid,
        before,
        now,
        Outcome.SHOWN,
        tolerance,
        factor=math.exp(shift.estimate),
        low=math.exp(min(shift.low, shift.estimate - margin)),
        high=math.exp(max(shift.high, shift.estimate + margin)),
        confidence=shift.confidence,
        prediction=prediction,
        pairs_error=max(shift.estimate - shift.low, shift.high - shift.estimate),
    )
    side = _worse_side(now)
    if side is None:
        return change
    if smallest_p_value(len(x), len(y)) > FAMILY_ALPHA:
        return replace(change, outcome=Outcome.TOO_FEW)
    p_value = p_value_below if side < 0 else p_value_above
    of_pairs = p_value(x, y, math.log1p(side * tolerance))
    return replace(change, p_value=max(of_pairs, prediction.p_value(change.worse_by)))


def _logs(row: Row) -> list[float]:
    return [math.log(ratio) for ratio in row.ratios or ()]


def _is_trusted(row: Row) -> bool:
    return not (row.conditions or {}).get("problem")


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
