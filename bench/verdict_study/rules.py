"""Rules that judge the two arms of a machine: the plugin's own, and others to compare it with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bench.verdict_study.machine import NEW, OLD, Machine
from pytest_grpo.measuring.deciding import Decider
from pytest_grpo.measuring.question import Question
from pytest_grpo.measuring.sampling.rounds import Round
from pytest_grpo.measuring.statistics.sign_test import Plan, judge
from pytest_grpo.types import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule says, and how many runs it took."""

    verdict: Verdict
    num_runs: int


Rule = Callable[[Machine, float], Outcome]
"""Whether the new arm is at least as fast as the old one, with that share of the error budget."""


def this_plugin(machine: Machine, share: float) -> Outcome:
    """The plugin's own loop: doubled pairs, blocks, medians and means."""
    sampler = machine.sampler()
    question = Question((OLD, NEW), lambda taken: (_seconds(taken, OLD), _seconds(taken, NEW)), 1.0, math.inf)

    def start_next(taken: Round) -> bool:
        machine.start_round()
        return True

    decision = Decider(sampler, question, Plan().looks, share, start_next).decide()
    return Outcome(decision.verdict, machine.num_runs)


def median_of_bare_pairs(machine: Machine, share: float) -> Outcome:
    """What the plugin did first: the median of pairs, whatever ran before."""
    sampler, plan, verdict = machine.sampler(), Plan(fail_alpha=share), Verdict.INCONCLUSIVE
    for look in plan.looks:
        while len(sampler.rounds) < look:
            machine.start_round()
            sampler.take_until(len(sampler.rounds) + 1)
        ratios = [_seconds(taken, OLD) / _seconds(taken, NEW) for taken in sampler.rounds]
        verdict, _ = judge(ratios, 1.0, math.inf, plan)
        if verdict is not Verdict.INCONCLUSIVE:
            break
    return Outcome(verdict, machine.num_runs)


def _seconds(taken: Round, arm: str) -> float:
    return taken[arm].value("seconds")


RULES: dict[str, Rule] = {"this plugin": this_plugin, "median of bare pairs": median_of_bare_pairs}
