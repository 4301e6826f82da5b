"""Paired comparisons: measure arms together and decide on their quantities."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import pytest

from pytest_grpo.agreement import Agreement
from pytest_grpo.arms import Quantity
from pytest_grpo.gate.explain import explain, inconclusive_reason
from pytest_grpo.gate.gate_session import GateSession, ShowProgress
from pytest_grpo.measuring.conditions import Watch
from pytest_grpo.measuring.deciding import Decider, Decision
from pytest_grpo.measuring.question import Question
from pytest_grpo.measuring.sampler import Round, Sampler
from pytest_grpo.measuring.stats import Estimate, Plan, interval
from pytest_grpo.settings.config import PluginConfig
from pytest_grpo.settings.thresholds import Threshold
from pytest_grpo.types import RATE_SUFFIX, Row, Verdict


class Recorder(Protocol):
    """What a comparison needs of its gate: the settings, and a way to record the verdict."""

    config: PluginConfig
    session: GateSession
    show_progress: ShowProgress | None

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
    _num_dropped: int = 0
    _watch: Watch | None = None
    _carry_over: str = ""

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
            conditions=asdict(watch.conditions(with_gpu=self.gate.config.profile == "gpu")) | self._how_taken(),
            duration_s=round(time.perf_counter() - start, 3),
        )
        self.explanation = explain(row)
        return self.gate.record(row)

    def count(self, left: Quantity, right: Quantity | float, holds: Callable[[float, float], bool]) -> bool:
        """Whether ``holds`` is true of every round. Counts are exact, so one round is enough."""
        __tracebackhide__ = True
        self._watch = Watch.start()
        self.sampler.take_until(1, self._check_round)
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
        problem = self.gate.session.control_problem()
        show = self.gate.show_progress or (lambda text: None)
        question = Question(
            (left.arm, right.arm),
            lambda taken: (self._value(taken, left), self._value(taken, right)),
            threshold.low,
            threshold.high,
            is_rate=left.metric.endswith(RATE_SUFFIX) and right.metric.endswith(RATE_SUFFIX),
        )
        self._watch = Watch.start()
        decider = Decider(self.sampler, question, self.gate.config.looks, share, self._check_round, show)
        decision = decider.decide()
        self._carry_over = decider.pace.note
        show("")
        verdict, estimate = decision.verdict, decision.estimate
        if estimate is None:
            estimate = Estimate(math.nan, math.nan, math.nan, 0, 0.0)
        elif self._disagreement:
            return Verdict.FAIL, estimate, f"wrong answers: {self._disagreement}"
        elif problem:
            return Verdict.INCONCLUSIVE, interval(self._ratios(left, right)), problem
        return verdict, estimate, self._reason(decider, decision, estimate, threshold)

    def _reason(self, decider: Decider, decision: Decision, estimate: Estimate, threshold: Threshold) -> str:
        """Why it is not a pass, empty if it is one."""
        if decision.verdict is Verdict.PASS:
            return ""
        if decision.stalls:
            reasons = [decision.stalls]
        elif decision.verdict is Verdict.FAIL:
            side = "below" if estimate.high < threshold.low else "above"
            reasons = [f"its whole interval lies {side} the threshold"]
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

    def _check_round(self, taken: Round) -> bool:
        """Check the outputs and the machine load of one round; False stops sampling."""
        watch, self._watch = self._watch, Watch.start()
        if not self._disagreement:
            self._disagreement = self.agree({name: sample.output for name, sample in taken.items()})
        if self._disagreement:
            return False  # kept even on a busy machine: load does not excuse a wrong output
        limit = self.max_cores_of_others
        if limit is not None and watch is not None and watch.cores_of_others() > limit:
            self._num_dropped += 1
            self.sampler.drop_last()
        return True

    def _why_inconclusive(self, estimate: Estimate, plan: Plan, threshold: Threshold, is_complete: bool) -> str:
        return inconclusive_reason(
            estimate,
            plan,
            threshold,
            budget_s=None if is_complete else self.sampler.budget_s,
            num_dropped=self._num_dropped,
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
