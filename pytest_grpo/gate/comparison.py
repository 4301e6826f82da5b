"""Paired comparisons: measure arms together and decide on their quantities."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import pytest

from pytest_grpo.agreement import Agreement
from pytest_grpo.arms import Quantity
from pytest_grpo.gate.explain import explain, inconclusive_reason
from pytest_grpo.gate.gate_session import GateSession, ShowProgress
from pytest_grpo.measuring.conditions import Watch
from pytest_grpo.measuring.quiet import WAIT_SHARE, QuietGuard
from pytest_grpo.measuring.sampler import Round, Sampler
from pytest_grpo.measuring.stats import Estimate, Plan, interval, judge, median_ratio
from pytest_grpo.settings.config import PluginConfig
from pytest_grpo.settings.thresholds import Threshold
from pytest_grpo.types import Row, Verdict

RED_BUDGET_FACTOR = 3
"""Extends the budget of a gate that points to a failure: a failure needs more pairs, and a slow arm more time."""


class Recorder(Protocol):
    """What a comparison needs of its gate: the settings, and a way to record the verdict."""

    config: PluginConfig
    session: GateSession
    show_progress: ShowProgress | None

    def is_settled(self, threshold: Threshold, ratios: Sequence[float]) -> bool: ...

    def row(self, threshold: Threshold, verdict: Verdict, measured: float, reason: str) -> Row: ...

    def record(self, row: Row) -> bool: ...


@dataclass(slots=True)
class PairedComparison:
    """Arms that are measured together. All assertions about them share the rounds taken so far."""

    gate: Recorder
    sampler: Sampler
    agree: Agreement
    max_cores_of_others: float | None = None
    explanation: list[str] = field(default_factory=list)
    """What the last comparison found, for the assertion's message."""
    _disagreement: str = ""
    _problem: str = ""
    """Why the timings cannot be trusted."""
    _guard: QuietGuard = field(init=False)
    _has_unjudged_rounds: bool = False
    """The rounds were taken for counts or outputs alone, whatever others did; no timing may use them."""

    def __post_init__(self) -> None:
        limit = self.max_cores_of_others
        self._guard = QuietGuard(
            max_cores=self.gate.session.max_cores_of_others if limit is None else limit,
            max_wait_s=WAIT_SHARE * self.sampler.budget_s,
            with_gpu=self.gate.config.profile == "gpu",
        )

    def decide(self, left: Quantity, right: Quantity, threshold: Threshold) -> bool:
        """Take rounds until they decide whether left over right meets ``threshold``; True for a pass."""
        __tracebackhide__ = True
        assert left.comparison is right.comparison is self, "both sides are measured together"
        start, watch = time.perf_counter(), Watch.start()
        share = self.gate.session.ledger.grant()
        verdict, estimate, reason = self._sample(left, right, threshold, share)
        if verdict is Verdict.FAIL:
            self.gate.session.ledger.give_back(share)
        row = replace(
            self.gate.row(threshold, verdict, estimate.median, reason),
            low=estimate.low,
            high=estimate.high,
            confidence=estimate.confidence,
            num_pairs=estimate.num_pairs,
            ratios=self._ratios(left, right),
            quantity=left.metric if left.metric == right.metric else None,
            arms=self._values(),
            conditions=asdict(watch.conditions(with_gpu=self._guard.with_gpu, problem=self._problem)),
            duration_s=round(time.perf_counter() - start, 3),
        )
        self.explanation = explain(row)
        return self.gate.record(row)

    def count(self, left: Quantity, right: Quantity | float, holds: Callable[[float, float], bool]) -> bool:
        """Whether ``holds`` is true of every round. Counts are exact, so one round is enough."""
        __tracebackhide__ = True
        self._count_round()
        for taken in self.sampler.rounds:
            mine = self._value(taken, left) * left.factor
            its = self._value(taken, right) * right.factor if isinstance(right, Quantity) else float(right)
            if not holds(mine, its):
                self.explanation = [f"{left!r} is {mine:g}, {right!r} is {its:g}: counts are exact"]
                return False
        if self._disagreement:
            self.explanation = [f"wrong answers: {self._disagreement}"]
        return not self._disagreement

    def _sample(
        self, left: Quantity, right: Quantity, threshold: Threshold, share: float
    ) -> tuple[Verdict, Estimate, str]:
        plan = Plan(looks=self.gate.config.looks, fail_alpha=share)
        self._problem = self.gate.session.control_problem()
        verdict, estimate, is_complete = Verdict.INCONCLUSIVE, None, True
        is_extended = False
        if self._has_unjudged_rounds and not self._problem:
            self.sampler.rounds.clear()
        self._has_unjudged_rounds = bool(self._problem)
        # Without a timing verdict to come, the outputs of a few rounds are checked and the load does not matter.
        for look in plan.looks[:1] if self._problem else plan.looks:
            self._show(look, plan.looks[-1], estimate)
            is_complete = self._take(look)
            if not is_complete and not is_extended and self._is_short(left, right, threshold):
                is_extended = True
                self.sampler.budget_s *= RED_BUDGET_FACTOR
                is_complete = self._take(look)
            if not self.sampler.rounds:
                break
            verdict, estimate = judge(self._ratios(left, right), threshold.low, threshold.high, plan)
            if is_extended and verdict is Verdict.PASS:
                verdict = Verdict.INCONCLUSIVE  # the error budget of a pass does not cover extra looks
            if self._disagreement or verdict is not Verdict.INCONCLUSIVE or not is_complete:
                break
        if verdict is Verdict.PASS and not self._disagreement:
            estimate = self._sample_on(left, right, threshold, plan, estimate)
        if self.gate.show_progress is not None:
            self.gate.show_progress("")
        if estimate is None:
            nothing = Estimate(math.nan, math.nan, math.nan, 0, 0.0)
            return Verdict.INCONCLUSIVE, nothing, self._why_inconclusive(nothing, plan, threshold, is_complete)
        if self._disagreement:
            return Verdict.FAIL, estimate, f"wrong answers: {self._disagreement}"
        self._problem = self._problem or self._guard.problem()
        if self._problem:
            return Verdict.INCONCLUSIVE, interval(self._ratios(left, right)), self._problem
        if verdict is Verdict.FAIL:
            side = "below" if estimate.high < threshold.low else "above"
            return verdict, estimate, f"its whole interval lies {side} the threshold"
        if verdict is Verdict.INCONCLUSIVE:
            return verdict, estimate, self._why_inconclusive(estimate, plan, threshold, is_complete)
        return verdict, estimate, ""

    def _sample_on(
        self, left: Quantity, right: Quantity, threshold: Threshold, plan: Plan, passed: Estimate | None
    ) -> Estimate | None:
        """After a pass, take the rounds that the gate's other question needs. The pass stands."""
        for look in plan.looks:
            if look <= len(self.sampler.rounds):
                continue
            if self._problem or self.gate.is_settled(threshold, self._ratios(left, right)):
                break
            self._show(look, plan.looks[-1], passed)
            is_complete = self._take(look)
            verdict, estimate = judge(self._ratios(left, right), threshold.low, threshold.high, plan)
            passed = estimate if verdict is Verdict.PASS else passed
            if self._disagreement or not is_complete:
                break
        return passed

    def _is_short(self, left: Quantity, right: Quantity, threshold: Threshold) -> bool:
        """Whether the median so far lies outside the threshold."""
        if not self.sampler.rounds or self._disagreement:
            return False
        return not threshold.low <= median_ratio(self._ratios(left, right)) <= threshold.high

    def _take(self, num_rounds: int) -> bool:
        """Take rounds up to ``num_rounds``, or until outputs differ; False when the time budget ended first."""
        self._guard.start_round()
        return self.sampler.take_until(num_rounds, self._check_round)

    def _count_round(self) -> None:
        """Take a round if there is none. Load does not change a count, so it counts even on a busy machine."""
        if self.sampler.rounds:
            return

        def check(taken: Round) -> bool:
            self._disagreement = self.agree({name: sample.output for name, sample in taken.items()})
            return False

        self._guard.start_round()
        self.sampler.take_until(1, check)
        self._has_unjudged_rounds = not self._guard.counts(waits=False)

    def _check_round(self, taken: Round) -> bool:
        """Check the outputs and the machine load of one round; False stops sampling."""
        if not self._disagreement:
            self._disagreement = self.agree({name: sample.output for name, sample in taken.items()})
        if self._disagreement:
            return False  # kept even on a busy machine: load does not excuse a wrong output
        if not self._problem and not self._guard.counts():
            self.sampler.drop_last()
        self._guard.start_round()
        return True

    def _why_inconclusive(self, estimate: Estimate, plan: Plan, threshold: Threshold, is_complete: bool) -> str:
        return inconclusive_reason(
            estimate,
            plan,
            threshold,
            budget_s=None if is_complete else self.sampler.budget_s,
            left_out=self._guard.left_out(),
        )

    def _ratios(self, left: Quantity, right: Quantity) -> list[float]:
        return [self._value(taken, left) / self._value(taken, right) for taken in self.sampler.rounds]

    def _value(self, taken: Round, quantity: Quantity) -> float:
        sample = taken[quantity.arm]
        try:
            return sample.value(quantity.metric)
        except KeyError:
            allowed = ", ".join(["seconds", *sample.quantities])
            raise pytest.UsageError(
                f"arm {quantity.arm!r} has no {quantity.metric}; allowed are {allowed} (each also as <name>_per_second)"
            ) from None

    def _values(self) -> dict[str, dict[str, list[float]]]:
        rounds = self.sampler.rounds
        return {
            name: {
                what: [float(taken[name].value(what)) for taken in rounds] for what in ("seconds", *sample.quantities)
            }
            for name, sample in (rounds[0] if rounds else {}).items()
        }

    def _show(self, look: int, planned: int, estimate: Estimate | None) -> None:
        if self.gate.show_progress is not None:
            so_far = "" if estimate is None else f", {estimate.median:.3g}x so far"
            self.gate.show_progress(f"[to pair {look} of at most {planned}{so_far}]")
