"""The loop of a gate: take pairs, look at planned times, and stop when they decide or the time is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pytest_grpo.measuring.pace import Pace
from pytest_grpo.measuring.question import Question
from pytest_grpo.measuring.sampling.rounds import Round, RoundSampler
from pytest_grpo.measuring.statistics.sign_test import Estimate, Plan, judge, median_ratio
from pytest_grpo.types import Verdict

__tracebackhide__ = True
"""Of an error in an arm, pytest shows the test and the arm, not what lies between."""

STALL_PART = 0.1
"""The part of a gate's ``alpha`` for the test of its means; the test of its median has the rest."""
STALL_PAIRS_FACTOR = 1.5
"""Where the means look wrong at the last look, a gate takes so many times the planned pairs."""


def plan_of(looks: tuple[int, ...], alpha: float) -> Plan:
    """How the median is judged at ``looks`` by a gate that may spend ``alpha`` of the error budget."""
    return Plan(looks, fail_alpha=(1 - STALL_PART) * alpha)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a gate found. ``estimate`` is None if no round was taken."""

    verdict: Verdict
    estimate: Estimate | None
    is_complete: bool
    """False when sampling ended because its time was over."""
    stalls: str = ""
    """Why the means speak against the arm, empty when they do not."""


@dataclass(slots=True)
class Decider:
    """Decides one ``question`` on the rounds of ``sampler``, which may have some from an earlier question.

    A wrong failure has at most the probability ``alpha``.
    """

    sampler: RoundSampler
    question: Question
    looks: tuple[int, ...]
    alpha: float
    check_round: Callable[[Round], bool] = lambda taken: True
    """Sees each round; False stops sampling."""
    show: Callable[[str], None] = lambda text: None
    wants_more: Callable[[Sequence[float]], bool] = lambda ratios: False
    """Whether another question than the threshold needs more pairs than these, after a pass."""
    plan: Plan = field(init=False)
    pace: Pace = field(init=False)
    is_stopped: bool = False
    _is_extended: bool = False

    def __post_init__(self) -> None:
        self.plan = plan_of(self.looks, self.alpha)
        self.pace = Pace(self.sampler, self.question, self.plan)

    def decide(self) -> Decision:
        """Take rounds until they decide."""
        verdict, estimate, is_complete = Verdict.INCONCLUSIVE, None, True
        for look in self.plan.looks:
            self._show(look, estimate)
            is_complete = self._take(look)
            if not self.sampler.rounds:
                return Decision(verdict, None, is_complete)
            verdict, estimate = self._judge(is_last=not is_complete)
            if self.is_stopped or verdict is Verdict.FAIL or not is_complete:
                break
            if verdict is Verdict.PASS and not self.question.means(self.sampler.rounds).is_outside:
                return self._sample_for_baseline(Decision(verdict, estimate, is_complete))
        decision = Decision(verdict, estimate, is_complete)
        return decision if self.is_stopped or verdict is Verdict.FAIL else self._judge_stalls(decision)

    def _sample_for_baseline(self, passed: Decision) -> Decision:
        """After a pass, take more pairs if the comparison with the baseline needs them. The pass stands."""
        for look in self.plan.looks:
            if look <= len(self.sampler.rounds):
                continue
            if not self.wants_more(self.question.ratios(self.sampler.rounds)):
                break
            self._show(look, passed.estimate)
            is_complete = self.sampler.take_until(look, self._check)
            verdict, estimate = self._judge(is_last=not is_complete)
            if verdict is Verdict.PASS:
                passed = replace(passed, estimate=estimate)
            if self.is_stopped or not is_complete:
                break
        return passed

    def _judge(self, *, is_last: bool) -> tuple[Verdict, Estimate]:
        ratios = self.question.ratios(self.sampler.rounds)
        verdict, estimate = judge(ratios, self.question.low, self.question.high, self.plan, is_last=is_last)
        if self._is_extended and verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE  # the error budget of a pass does not cover extra looks
        return verdict, estimate

    def _judge_stalls(self, before: Decision) -> Decision:
        """Fail where the means are clearly outside the threshold; do not pass where they probably are."""
        if self._looks_stalled() and before.is_complete:
            self._take(int(STALL_PAIRS_FACTOR * self.plan.looks[-1]))
            if self.is_stopped:
                return before
        means = self.question.means(self.sampler.rounds)
        is_clear = means.p_value <= STALL_PART * self.alpha / self.question.num_bounds
        if not is_clear and not self._looks_stalled():
            return before
        _, estimate = self._judge(is_last=True)
        stalls = self.question.describe_stalls(self.sampler.rounds, means)
        return Decision(Verdict.FAIL if is_clear else Verdict.INCONCLUSIVE, estimate, before.is_complete, stalls)

    def _looks_stalled(self) -> bool:
        """Whether the means are probably outside the threshold, although the median is inside."""
        rounds = self.sampler.rounds
        return self._median_is_inside() and self.question.means(rounds).is_suspicious

    def _median_is_inside(self) -> bool:
        return self.question.is_inside(median_ratio(self.question.ratios(self.sampler.rounds)))

    def _take(self, num_rounds: int) -> bool:
        """Take rounds up to ``num_rounds``, or until a check stops; False when the time budget ended first."""
        is_complete = self.sampler.take_until(num_rounds, self._check)
        if not is_complete and not self._is_extended and self._points_to_a_failure():
            self._is_extended = True
            self.pace.extend_for_a_failure()
            is_complete = self.sampler.take_until(num_rounds, self._check)
        return is_complete

    def _check(self, taken: Round) -> bool:
        if not self.check_round(taken):
            self.is_stopped = True
            return False
        self.pace.adapt()
        if self.pace.warning:
            self.show(f"[{self.pace.warning}]")
        return True

    def _points_to_a_failure(self) -> bool:
        if not self.sampler.rounds or self.is_stopped:
            return False
        return not self._median_is_inside() or self._looks_stalled()

    def _show(self, look: int, estimate: Estimate | None) -> None:
        if not self.pace.warning:
            so_far = "" if estimate is None else f", {estimate.median:.3g}x so far"
            self.show(f"[to pair {look} of at most {self.plan.looks[-1]}{so_far}]")
