"""Pairs of samples of one arm, one from each side, and what they say about its quantities."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from pytest_grpo.against.expecting import Expected
from pytest_grpo.against.judging import (
    Change,
    bounds,
    is_amount,
    is_bytes,
    judge_change,
    judge_stalls,
    quantities_of,
    question_of,
    small_part,
)
from pytest_grpo.against.side import Side
from pytest_grpo.measuring.deciding import plan_of
from pytest_grpo.measuring.machine.quiet import WAIT_SHARE, QuietGuard
from pytest_grpo.measuring.pace import MAX_BUDGET_FACTOR
from pytest_grpo.measuring.question import Question
from pytest_grpo.measuring.sampling.rounds import Round, RoundSampler
from pytest_grpo.measuring.statistics.sign_test import Plan, judge
from pytest_grpo.settings.config import PluginConfig
from pytest_grpo.types import REFERENCE_ARM, Sample, Verdict, is_count


@dataclass(frozen=True, slots=True)
class Rules:
    """How a comparison of versions decides."""

    looks: tuple[int, ...]
    tolerance: float
    budget_s: float
    """Time limit for the samples of one arm."""
    max_cores_of_others: float
    max_wait_s: float
    with_gpu: bool


def rules_of(settings: PluginConfig) -> Rules:
    """How versions are compared under these settings."""
    return Rules(
        looks=settings.looks,
        tolerance=settings.tolerance,
        budget_s=settings.budget_s,
        max_cores_of_others=settings.max_cores_of_others,
        max_wait_s=WAIT_SHARE * settings.budget_s,
        with_gpu=settings.profile == "gpu",
    )


@dataclass(slots=True)
class Watched:
    """A quantity of an arm, and what is known of it."""

    quantity: str
    question: Question
    plan: Plan
    alpha: float
    expected: Expected | None = None
    """A gain that must be proven, too."""
    change: Change | None = None
    proof: Verdict = Verdict.INCONCLUSIVE
    """Whether ``expected`` holds."""

    def judge(self, rounds: Sequence[Round], names: tuple[str, str], tolerance: float, *, is_last: bool) -> None:
        """Look at the rounds so far."""
        ratios = self.question.ratios(rounds)
        if self.change is None or not self.change.is_final:
            self.change = small_part(rounds, names, self.quantity) or judge_stalls(
                judge_change(ratios, self.quantity, tolerance, self.plan, is_last=is_last),
                self.question,
                self.quantity,
                rounds,
                self.alpha,
            )
        if self.expected is not None and self.proof is Verdict.INCONCLUSIVE:
            self.proof, _ = judge(ratios, self.expected.low, self.expected.high, self.plan, is_last=is_last)

    @property
    def is_decided(self) -> bool:
        is_proven = self.expected is None or self.proof is not Verdict.INCONCLUSIVE
        return self.change is not None and self.change.is_final and is_proven


@dataclass(slots=True)
class ArmPairs:
    """Takes pairs of ``arm`` until its quantities are decided or its time is over.

    All rounds are doubled: each side runs twice and its second sample counts. The first run wakes the side's threads
    and fills the caches: noise that makes the interval of ``loss_forward_ms`` 15 % wide, not 3 %. It also takes the
    cost of what the other side left in the caches, which is no change of this version.
    """

    arm: str
    sides: tuple[Side, Side]
    rules: Rules
    first: tuple[Sample, Sample]
    """The first run on each side."""
    watched: list[Watched]
    rng: random.Random
    sampler: RoundSampler = field(init=False)
    guard: QuietGuard = field(init=False)
    is_over: bool = False

    def __post_init__(self) -> None:
        by_name = {side.name: side for side in self.sides}
        self.sampler = RoundSampler(
            {name: partial(side.measure, self.arm, 1) for name, side in by_name.items()},
            self.rules.budget_s,
            rng=self.rng,
            take=lambda _, name, repeats: by_name[name].measure(self.arm, repeats),
            run=lambda _, name, repeats: by_name[name].took_s(self.arm, repeats),
            has_equal_repeats=True,
        )
        self.sampler.is_doubled = True
        self.guard = QuietGuard(self.rules.max_cores_of_others, self.rules.max_wait_s, self.rules.with_gpu)

    @property
    def is_control(self) -> bool:
        return self.arm == REFERENCE_ARM

    def take_pair(self) -> None:
        """One more pair that counts; the arm is over when the time for it is."""
        wanted = len(self.sampler.rounds) + 1

        def check(_: Round) -> bool:
            if not self.guard.counts():
                self.sampler.drop_last()
            self.guard.start_round()
            return True

        self.guard.start_round()
        is_complete = self.sampler.take_until(wanted, check)
        self._find_time()
        if not is_complete:
            self.judge(is_last=True)
        elif wanted in self.rules.looks:
            self.judge(is_last=wanted == self.rules.looks[-1])

    def _find_time(self) -> None:
        """Slow arms get the time that the pairs of a verdict take, up to a limit."""
        num_pairs = self.watched[0].plan.min_pairs(Verdict.FAIL)
        pair_s = self.sampler.spent_s / max(1, len(self.sampler.rounds))
        needed_s = min(num_pairs * pair_s, MAX_BUDGET_FACTOR * self.rules.budget_s)
        self.sampler.budget_s = max(self.sampler.budget_s, needed_s)

    def judge(self, *, is_last: bool) -> None:
        """Decide what can be decided. Quantities that were decided before stay so."""
        if self.sampler.rounds:
            for each in self.watched:
                if not each.is_decided:
                    each.judge(self.sampler.rounds, self.names, self.rules.tolerance, is_last=is_last)
        self.is_over = is_last or all(each.is_decided for each in self.watched)

    @property
    def names(self) -> tuple[str, str]:
        here, other = self.sides
        return here.name, other.name

    @property
    def band(self) -> tuple[float, float]:
        """The ratios that count as the same."""
        return bounds(self.rules.tolerance)

    @property
    def problem(self) -> str:
        """Why no timing of these pairs can be trusted; empty when they can."""
        return self.guard.problem()


def counts_of(first: tuple[Sample, Sample]) -> dict[str, tuple[float, float]]:
    """The counts and amounts of work that both sides have, of the first runs."""
    here, other = (sample.quantities for sample in first)
    return {name: (here[name], other[name]) for name in here if name in other and (is_count(name) or is_amount(name))}


def common_quantities(first: tuple[Sample, Sample], wanted: Sequence[str]) -> list[str]:
    """The measured quantities that both sides have."""
    here, other = (quantities_of(list(sample.quantities), wanted) for sample in first)
    return [name for name in here if name in other]


def watch(quantities: Sequence[str], names: tuple[str, str], rules: Rules, alpha: float) -> list[Watched]:
    """The quantities with an equal part each of ``alpha``, that of their arm."""
    part = alpha / max(1, sum(not is_bytes(quantity) for quantity in quantities))  # bytes are never faster or slower
    return [
        # Each of the two directions has half.
        Watched(quantity, question_of(quantity, names, rules.tolerance), plan_of(rules.looks, part / 2), part)
        for quantity in quantities
    ]


def take_pairs(arms: Sequence[ArmPairs], rng: random.Random, show: Callable[[str], None]) -> None:
    """Take pairs of all arms, interleaved in random order, until each is decided or out of time.

    The control gets half as many, as long as others need any.
    """
    active = [each for each in arms if not each.is_control]
    controls = [each for each in arms if each.is_control]
    place = 0
    while active:
        place += 1
        due = [*active, *(each for each in controls if place % 2 and not each.is_over)]
        rng.shuffle(due)
        for each in due:
            show(f"[pair {len(each.sampler.rounds) + 1} of at most {each.rules.looks[-1]}: arm {each.arm}]")
            each.take_pair()
        active = [each for each in active if not each.is_over]
    for control in controls:
        control.judge(is_last=True)
    show("")
