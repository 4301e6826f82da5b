"""How the next round is taken: doubled, in blocks or bare; and how much time a gate may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pytest_grpo.measuring.question import Question
from pytest_grpo.measuring.sampling.rounds import RoundSampler
from pytest_grpo.measuring.statistics.carry_over import MIN_ROUNDS
from pytest_grpo.measuring.statistics.sign_test import Plan
from pytest_grpo.types import Verdict

BLOCK_SIZE = 3
"""Runs of a block when carry-over was found, after one that is not counted."""
ADAPT_EVERY_ROUNDS = 4
"""After the first look, the pace is adapted once in so many rounds."""
SPARE_FACTOR = 1.05
"""A pair may take a little longer than the last one."""
FAILURE_BUDGET_FACTOR = 3
"""Extends the budget of a gate that points to a failure: a failure needs more pairs."""
MAX_BUDGET_FACTOR = 5
"""Slow arms get up to so many times the budget, as many seconds as the pairs of a failure take."""


@dataclass(slots=True)
class Pace:
    """Adapts the ``sampler`` of one ``question`` after each round.

    The first rounds are doubled: they show carry-over, and do not suffer from it. Later rounds are doubled while
    the possible carry-over is more than half of the distance between median and threshold. When it is found and that
    large, the gate starts afresh in blocks, before its first look: so no verdict was given, or withheld, on what is
    forgotten.

    The error rates stay what they are: whether a round is doubled depends on earlier rounds only, and each round has
    its own random order.
    """

    sampler: RoundSampler
    question: Question
    plan: Plan
    warning: str = ""
    """Set where the time limit is too short for the pairs that a failure needs."""
    note: str = ""
    """Set where carry-over was found: how much, and what was done."""
    num_needed: int = field(init=False)
    """The fewest pairs that a failure takes."""

    def __post_init__(self) -> None:
        self.num_needed = self.plan.min_pairs(Verdict.FAIL)
        self.sampler.is_doubled = self.sampler.block_size == 1
        self._choose_mode()

    def extend_for_a_failure(self) -> None:
        self.sampler.budget_s = max(self.sampler.budget_s, FAILURE_BUDGET_FACTOR * self.sampler.first_budget_s)

    def adapt(self) -> None:
        """Choose how the next round is taken, and see that there is time for it."""
        num_rounds = len(self.sampler.rounds)
        if num_rounds and (num_rounds <= self.plan.looks[0] or num_rounds % ADAPT_EVERY_ROUNDS == 0):
            self._choose_mode()
            self._find_time()

    def _choose_mode(self) -> None:
        sampler = self.sampler
        carry_over = self.question.carry_over(sampler.rounds, sampler.orders)
        if sampler.block_size > 1 or carry_over is None:
            return
        is_relevant = carry_over.reach > self.question.margin(sampler.rounds) / 2
        if carry_over.is_found:
            self.note = carry_over.describe()
            limit_s = MAX_BUDGET_FACTOR * sampler.first_budget_s
            if is_relevant and len(sampler.rounds) <= self.plan.looks[0] and self._needed_s(BLOCK_SIZE + 1) <= limit_s:
                self.note += ", so it is measured in blocks"
                sampler.block_size, sampler.is_doubled = BLOCK_SIZE, False
                sampler.start_afresh()
                return
        sampler.is_doubled = is_relevant and (carry_over.is_found or self._needed_s(2) <= sampler.first_budget_s)

    def _find_time(self) -> None:
        sampler, limit_s = self.sampler, MAX_BUDGET_FACTOR * self.sampler.first_budget_s
        num_runs = 1
        if sampler.block_size > 1:
            num_runs = sampler.block_size + 1
        elif sampler.is_doubled and len(sampler.rounds) >= MIN_ROUNDS:
            num_runs = 2
        needed_s = self._needed_s(num_runs)
        self.warning = ""
        if needed_s > sampler.budget_s:
            sampler.budget_s = max(sampler.budget_s, min(needed_s, limit_s))
        if needed_s > limit_s:
            enough_s = needed_s / MAX_BUDGET_FACTOR
            self.warning = (
                f"a pair takes {num_runs * sampler.run_s:.3g} s: {limit_s:g} s are not enough for the "
                f"{self.num_needed} pairs that a failure needs; "
                f"give --grpo-budget {math.ceil(enough_s) if enough_s > 1 else enough_s:g}"
            )

    def _needed_s(self, num_runs: int) -> float:
        """Seconds until the pairs of a failure are taken, with so many runs of each arm in a round."""
        num_left = max(0, self.num_needed - len(self.sampler.rounds))
        return self.sampler.spent_s + SPARE_FACTOR * num_left * num_runs * self.sampler.run_s
