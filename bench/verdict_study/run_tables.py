"""What each rule says of arms whose speed depends on what ran before, in one table."""

from __future__ import annotations

from dataclasses import dataclass

from bench.verdict_study.rate import Rate
from bench.verdict_study.rules import RULES, Rule
from bench.verdict_study.run_noises import IS_WRONG_BY_MEANS, RUN_NOISES
from bench.verdict_study.suites import SuiteRates, judge_suites
from pytest_grpo.types import Verdict

EFFECT = 0.1
HEADER = ("noise", "rule", "false red", "false green", "10 % better: green", "10 % worse: red", "runs per gate")


@dataclass(frozen=True, slots=True)
class RunRates:
    """How often a rule is wrong and right under one noise. None where the noise has no such case."""

    false_red: Rate | None
    """Suites with any red gate, whose gates are all exactly on the threshold."""
    false_green: Rate
    """Gates that pass although the new arm is slower: 10 % in each run, or in the mean of them."""
    green: Rate | None
    """Gates that are 10 % better and pass."""
    red: Rate
    """Gates that are worse and fail."""
    runs_per_gate: float

    def cells(self) -> tuple[str, ...]:
        rates = (self.false_red, self.false_green, self.green, self.red)
        return (*("-" if rate is None else str(rate) for rate in rates), f"{self.runs_per_gate:.0f}")


def study_runs(noise: str, rule: Rule, num_suites: int, num_gates: int, seed: int) -> RunRates:
    """With a noise that makes the means worse, the gates are 10 % better by their medians."""

    def judged(speedup: float) -> SuiteRates:
        return judge_suites(RUN_NOISES[noise], rule, speedup, num_suites, num_gates, seed)

    better = judged(1 + EFFECT)
    if noise in IS_WRONG_BY_MEANS:
        return RunRates(None, better.verdicts[Verdict.PASS], None, better.verdicts[Verdict.FAIL], better.runs_per_gate)
    worse, equal = judged(1 / (1 + EFFECT)), judged(1.0)
    return RunRates(
        equal.red_suites,
        worse.verdicts[Verdict.PASS],
        better.verdicts[Verdict.PASS],
        worse.verdicts[Verdict.FAIL],
        better.runs_per_gate,
    )


def study_all_runs(num_suites: int, num_gates: int, seed: int) -> dict[tuple[str, str], RunRates]:
    """By noise and rule."""
    return {
        (noise, rule): study_runs(noise, judge, num_suites, num_gates, seed)
        for noise in RUN_NOISES
        for rule, judge in RULES.items()
    }


def worst_run_rates(found: dict[tuple[str, str], RunRates]) -> dict[str, Rate]:
    """The rates of this plugin to publish, each under the noise where it is worst."""
    ours = [rates for (_, rule), rates in found.items() if rule == "this plugin"]
    false_reds = [rates.false_red for rates in ours if rates.false_red is not None]
    return {
        "false_fail_rate_when_runs_affect_each_other": max(false_reds, key=lambda rate: rate.share),
        "false_pass_rate_when_runs_affect_each_other": max(
            (rates.false_green for rates in ours), key=lambda rate: rate.share
        ),
    }
