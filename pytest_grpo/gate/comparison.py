"""Paired comparisons: measure arms together and decide on their quantities."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Protocol

import pytest

from pytest_grpo.agreement import Agreement
from pytest_grpo.arms import Quantity
from pytest_grpo.gate.counts import HeldCount
from pytest_grpo.gate.explain import explain, inconclusive_reason
from pytest_grpo.gate.gate_session import GateSession, ShowProgress
from pytest_grpo.measuring.deciding import Decider, Decision
from pytest_grpo.measuring.growth import describe_growth
from pytest_grpo.measuring.machine.conditions import Watch
from pytest_grpo.measuring.machine.quiet import WAIT_SHARE, QuietGuard
from pytest_grpo.measuring.question import Question
from pytest_grpo.measuring.sampling.rounds import Round, RoundSampler
from pytest_grpo.measuring.sampling.sample import MeasurementError
from pytest_grpo.measuring.statistics.sign_test import Estimate, Plan, interval, median_ratio
from pytest_grpo.settings.config import PluginConfig
from pytest_grpo.settings.thresholds import Threshold
from pytest_grpo.types import RATE_SUFFIX, REFERENCE_ARM, Row, Verdict

__tracebackhide__ = True
"""Of an error in an arm, pytest shows the test and the arm, not what lies between."""

NO_ESTIMATE = Estimate(math.nan, math.nan, math.nan, 0, 0.0)
"""Of no pairs."""


class Recorder(Protocol):
    """What a comparison needs of its gate: the settings, and a way to record the verdict."""

    config: PluginConfig
    session: GateSession
    show_progress: ShowProgress | None

    def is_decided(self, row: Row) -> bool: ...

    def row(self, threshold: Threshold, verdict: Verdict, measured: float, reason: str) -> Row: ...

    def record(self, row: Row) -> Row: ...

    def correct(self, row: Row, now: Row) -> None: ...


MAX_SIMILAR_RATIO = 1.5
"""Arms do about the same, so that their spans are compared, where the threshold lies within this factor of 1."""


def compares_equals(threshold: Threshold) -> bool:
    """Whether ``threshold`` is about two arms that should take about as long."""
    bounds = [bound for bound in (threshold.low, threshold.high) if 0 < bound < math.inf]
    return all(1 / MAX_SIMILAR_RATIO < bound < MAX_SIMILAR_RATIO for bound in bounds)


@dataclass(slots=True)
class PairedComparison:
    """Arms that are measured together. All assertions about them share the rounds taken so far."""

    gate: Recorder
    sampler: RoundSampler
    agree: Agreement
    max_cores_of_others: float | None = None
    explanation: list[str] = field(default_factory=list)
    """What the last comparison found, for the assertion's message."""
    is_decided: bool = False
    """Whether quantities of these arms were compared."""
    _disagreement: str = ""
    _problem: str = ""
    """Why the timings cannot be trusted."""
    _guard: QuietGuard = field(init=False)
    _has_unjudged_rounds: bool = False
    """The rounds were taken for counts or outputs alone, whatever others did; no timing may use them."""
    _carry_over: str = ""
    _counts: list[tuple[Row, Callable[[], Row]]] = field(default_factory=list)
    """The rows of counts, and how to hold them against the rounds so far."""

    def __post_init__(self) -> None:
        limit = self.max_cores_of_others
        self._guard = QuietGuard(
            max_cores=self.gate.session.max_cores_of_others if limit is None else limit,
            max_wait_s=WAIT_SHARE * self.sampler.budget_s,
            with_gpu=self.gate.config.profile == "gpu",
        )

    def decide(self, left: Quantity, right: Quantity, threshold: Threshold) -> bool:
        """Take rounds until they decide whether left over right meets ``threshold``; False for a failure."""
        start, watch = time.perf_counter(), Watch.start()
        alpha = self.gate.session.error_budget.grant()
        with self.gate.session.setup_clock.paused():
            verdict, estimate, reason = self._measure_and_judge(left, right, threshold, alpha)
        if verdict is Verdict.FAIL:
            self.gate.session.error_budget.give_back(alpha)
        row = replace(
            self._with_rounds(self.gate.row(threshold, verdict, estimate.median, reason), left, right),
            low=estimate.low,
            high=estimate.high,
            confidence=estimate.confidence,
            num_pairs=estimate.num_pairs,
            conditions=asdict(watch.conditions(with_gpu=self._guard.with_gpu, problem=self._problem))
            | self._how_taken(),
            duration_s=round(time.perf_counter() - start, 3),
        )
        return self._record(row).verdict != Verdict.FAIL

    def _with_rounds(self, row: Row, left: Quantity, right: Quantity) -> Row:
        """``row`` with what the rounds so far measured."""
        quantity = left.metric if left.metric == right.metric else None
        return replace(row, ratios=self._ratios(left, right), quantity=quantity, arms=self._values())

    def report(self, quantity: Quantity) -> None:
        """Nothing: one version alone gives no ratio."""

    def count(self, left: Quantity, right: Quantity | float, threshold: Threshold, *, is_strict: bool = False) -> bool:
        """Whether left over right meets ``threshold`` in every round. Counts are exact, so one round is enough."""
        self._count_round()
        held = partial(self._hold, left, right, threshold, is_strict=is_strict)
        row = self._record(held())
        self._counts.append((row, held))
        return row.verdict != Verdict.FAIL

    def count_again(self) -> None:
        """Hold counts that passed against the rounds taken since, and correct their rows."""
        for row, held in self._counts:
            if row.verdict == Verdict.PASS and (now := held()).verdict == Verdict.FAIL:
                self.gate.correct(row, now)
        self._counts.clear()

    def _hold(self, left: Quantity, right: Quantity | float, threshold: Threshold, *, is_strict: bool) -> Row:
        """The row of a count, from all rounds so far."""
        row = self._uncounted(threshold)
        for taken in self.sampler.rounds:
            other = self._value(taken, right) if isinstance(right, Quantity) else right
            held = HeldCount.against(self._value(taken, left), other, threshold, is_strict=is_strict)
            reason = "" if held.holds else f"counts are exact: {left.arm}.{left.metric} is {held.value:g}"
            if self._disagreement:
                reason = f"wrong answers: {self._disagreement}"
            verdict = Verdict.FAIL if reason else Verdict.PASS
            row = self.gate.row(held.threshold, verdict, held.value, reason)
            row = replace(row, threshold=held.threshold_text, quantity=left.metric)
            if reason:
                break
        return row

    def _uncounted(self, threshold: Threshold) -> Row:
        """The row of a count before any round was taken."""
        reason = self._why_inconclusive(NO_ESTIMATE, Plan(), threshold, is_complete=False)
        return self.gate.row(threshold, Verdict.INCONCLUSIVE, math.nan, reason)

    def _record(self, row: Row) -> Row:
        row = self.gate.record(row)
        self.is_decided = True
        self.explanation = explain(row)
        return row

    def _measure_and_judge(
        self, left: Quantity, right: Quantity, threshold: Threshold, alpha: float
    ) -> tuple[Verdict, Estimate, str]:
        """Take pairs until they decide. Wrong answers overrule their verdict, and so does an unfit machine."""
        self._problem = self.gate.session.control_problem()
        if self._has_unjudged_rounds and not self._problem:
            self.sampler.start_afresh()
        self._has_unjudged_rounds = bool(self._problem)
        # Without a timing verdict to come, the outputs of a few rounds are checked and the load does not matter.
        looks = self.gate.config.looks[:1] if self._problem else self.gate.config.looks
        show = self.gate.show_progress or (lambda text: None)

        def wants_more(ratios: Sequence[float]) -> bool:
            row = self.gate.row(threshold, Verdict.PASS, median_ratio(ratios), "")
            return not self._problem and not self.gate.is_decided(self._with_rounds(row, left, right))

        question = Question(
            (left.arm, right.arm),
            lambda taken: (self._above_zero(taken, left), self._above_zero(taken, right)),
            threshold.low,
            threshold.high,
            is_rate=left.metric.endswith(RATE_SUFFIX) and right.metric.endswith(RATE_SUFFIX),
        )
        self._guard.start_round()
        decider = Decider(self.sampler, question, looks, alpha, self._check_round, show, wants_more)
        decision = decider.decide()
        self._carry_over = decider.pace.note
        show("")
        verdict, estimate = decision.verdict, decision.estimate
        if estimate is None:
            return verdict, NO_ESTIMATE, self._reason(decider, decision, NO_ESTIMATE, threshold)
        if self._disagreement:
            return Verdict.FAIL, estimate, f"wrong answers: {self._disagreement}"
        self._problem = self._problem or self._guard.problem()
        if self._problem:
            return Verdict.INCONCLUSIVE, interval(self._ratios(left, right)), self._problem
        return verdict, estimate, self._reason(decider, decision, estimate, threshold)

    def _reason(self, decider: Decider, decision: Decision, estimate: Estimate, threshold: Threshold) -> str:
        """Why it is not a pass, empty if it is one."""
        if decision.verdict is Verdict.PASS:
            return ""
        if decision.stalls:
            reasons = [decision.stalls]
        elif decision.verdict is Verdict.FAIL:
            side = "below" if estimate.high < threshold.low else "above"
            names = decider.question.names
            reasons = [
                f"its whole interval lies {side} the threshold",
                describe_growth(self.sampler.rounds, names) if compares_equals(threshold) else "",
            ]
        else:
            reasons = [
                self._why_inconclusive(estimate, decider.plan, threshold, decision.is_complete),
                decider.pace.warning,
                decider.question.order_effect(self.sampler.rounds, self.sampler.orders),
            ]
        return "; ".join(filter(None, [*reasons, decider.pace.note]))

    def _how_taken(self) -> dict[str, object]:
        """The first arm of each pair, and what carry-over was found."""
        taken: dict[str, object] = {"first_arms": [order.names[0] for order in self.sampler.orders]}
        return taken | {"carry_over": self._carry_over} if self._carry_over else taken

    def _count_round(self) -> None:
        """Take a round if there is none. Load does not change a count, so it counts even on a busy machine."""
        if self.sampler.rounds:
            return

        def check(taken: Round) -> bool:
            self._check_outputs(taken)
            return False

        self._guard.start_round()
        self.sampler.take_until(1, check)
        self._has_unjudged_rounds = not self._guard.counts(waits=False)

    def _check_round(self, taken: Round) -> bool:
        """Check the outputs and the machine load of one round; False stops sampling."""
        self._check_outputs(taken)
        if self._disagreement:
            return False  # kept even on a busy machine: load does not excuse a wrong output
        if not self._problem and not self._guard.counts():
            self.sampler.drop_last()
        self._guard.start_round()
        return True

    def _check_outputs(self, taken: Round) -> None:
        if self._disagreement:
            return
        outputs = {name: sample.output for name, sample in taken.items()}
        if len(outputs) > 2:  # of two arms both answer, whatever their names
            outputs.pop(REFERENCE_ARM, None)
        found = self.agree(outputs)
        if not isinstance(found, str):  # False, of a test for equality, would count as no difference
            raise pytest.UsageError(
                f"agree= returned {found!r}; return what differs, as a line of text, or '' when the outputs agree"
            )
        self._disagreement = found

    def _why_inconclusive(self, estimate: Estimate, plan: Plan, threshold: Threshold, is_complete: bool) -> str:
        return inconclusive_reason(
            estimate,
            plan,
            threshold,
            budget_s=None if is_complete else self.sampler.budget_s,
            left_out=self._guard.left_out(),
        )

    def _ratios(self, left: Quantity, right: Quantity) -> list[float]:
        return [self._above_zero(taken, left) / self._above_zero(taken, right) for taken in self.sampler.rounds]

    def _above_zero(self, taken: Round, quantity: Quantity) -> float:
        value = self._value(taken, quantity)
        if not value > 0:  # the rate of a count, which may be zero
            raise MeasurementError(
                f"arm {quantity.arm!r}: {quantity.metric} {value!r} must be above zero; check what it measures"
            )
        return value

    def _value(self, taken: Round, quantity: Quantity) -> float:
        sample = taken[quantity.arm]
        try:
            return sample.value(quantity.metric)
        except KeyError:
            allowed = ["seconds", *sample.quantities]
            spellings = [*allowed, *(f"{what}{RATE_SUFFIX}" for what in sample.quantities)]
            nearest = difflib.get_close_matches(quantity.metric, spellings, n=1)
            meant = f"did you mean {nearest[0]}? " if nearest else ""
            raise pytest.UsageError(
                f"arm {quantity.arm!r} has no {quantity.metric}; {meant}allowed are {', '.join(allowed)} "
                "(each also as <name>_per_second)"
            ) from None

    def _values(self) -> dict[str, dict[str, list[float]]]:
        rounds = self.sampler.rounds
        return {
            name: {
                what: [float(taken[name].value(what)) for taken in rounds] for what in ("seconds", *sample.quantities)
            }
            for name, sample in (rounds[0] if rounds else {}).items()
        }
