"""Suites of gates on simulated machines, judged one after another by one rule."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from bench.verdict_study.machine import Machine, RunNoise
from bench.verdict_study.rate import Rate
from bench.verdict_study.rules import Rule
from pytest_grpo.measuring.statistics.error_budget import ErrorBudget
from pytest_grpo.types import Verdict


@dataclass(frozen=True, slots=True)
class SuiteRates:
    """What a rule said of the gates of many suites."""

    red_suites: Rate
    """Suites with any red gate."""
    verdicts: dict[Verdict, Rate]
    """Of single gates."""
    runs_per_gate: float


def judge_suites(noise: RunNoise, rule: Rule, speedup: float, num_suites: int, num_gates: int, seed: int) -> SuiteRates:
    """Gates whose new arm is ``speedup`` times as fast as the old one, each undisturbed and by the median."""
    rng = random.Random(seed)
    counts: Counter[Verdict] = Counter()
    num_red = num_runs = 0
    for _ in range(num_suites):
        budget, slowdown, is_red = ErrorBudget(num_gates), noise(rng), False
        for _ in range(num_gates):
            share = budget.grant()
            outcome = rule(Machine(rng, slowdown, speedup), share)
            counts[outcome.verdict] += 1
            num_runs += outcome.num_runs
            if outcome.verdict is Verdict.FAIL:
                is_red = True
                budget.give_back(share)
        num_red += is_red
    total = num_suites * num_gates
    return SuiteRates(
        Rate(num_red, num_suites), {verdict: Rate(counts[verdict], total) for verdict in Verdict}, num_runs / total
    )
