"""Error rates and power of the verdicts under one noise model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.verdict_study.decisions import CODES, decide, judge_one, suite_failures
from bench.verdict_study.noises import BEYOND_DECLARED
from bench.verdict_study.rate import Rate
from bench.verdict_study.timings import Timings
from pytest_grpo.measuring.deciding import plan_of
from pytest_grpo.measuring.statistics.error_budget import ErrorBudget
from pytest_grpo.measuring.statistics.sign_test import DEFAULT_LOOKS
from pytest_grpo.types import Verdict

EFFECTS = (0.05, 0.10, 0.20)
UNCHANGED = 0.05
"""The distance of an unchanged ratio from the threshold "at most 5 % slower"."""
NUM_CHECKED = 200


@dataclass(frozen=True, slots=True)
class Quality:
    """Error rates and power of the verdicts under one noise model."""

    typical_difference: float
    """The median relative difference of pairs of equal arms."""
    false_fails: dict[str, Rate]
    """Suites with any false failure, by the true ratios of their gates."""
    wrong_verdicts: Rate
    """Gates exactly on their threshold that get a verdict."""
    power: dict[tuple[Verdict, float], list[Rate]]
    """Gates with the correct verdict after each look, by verdict and true distance from the threshold."""
    mean_pairs: dict[tuple[Verdict, float], float]
    alarms: dict[str, Rate]
    """Gates that fail although nothing changed, by method of comparison."""


def study(timings: Timings, rng: np.random.Generator) -> Quality:
    pairs = timings.pairs
    num_suites, num_gates, _ = pairs.shape
    budget = ErrorBudget(num_gates)
    plan = plan_of(DEFAULT_LOOKS, min(budget.grant() for _ in range(num_gates)))
    power, mean_pairs = {}, {}
    for verdict in (Verdict.PASS, Verdict.FAIL):
        for effect in EFFECTS:
            codes, used = decide(pairs + CODES[verdict] * math.log1p(effect), plan)
            is_right = codes == CODES[verdict]
            power[verdict, effect] = [Rate.of(is_right & (used <= look)) for look in plan.looks]
            mean_pairs[verdict, effect] = float(used.mean())
    on_threshold, unchanged = np.zeros((num_suites, num_gates)), math.log1p(UNCHANGED)
    is_loss = rng.random((num_suites, num_gates)) < 1 / 3
    with_losses = suite_failures(pairs, np.where(is_loss, -math.log1p(0.2), 0.0))
    return Quality(
        typical_difference=float(np.expm1(np.median(np.abs(pairs)))),
        false_fails={
            "on the threshold": Rate.of(suite_failures(pairs, on_threshold).any(axis=1)),
            "a third lost 20 %, others on it": Rate.of((with_losses & ~is_loss).any(axis=1)),
            "10 % better": Rate.of(suite_failures(pairs, on_threshold + math.log1p(0.1)).any(axis=1)),
        },
        wrong_verdicts=Rate.of(decide(pairs, plan)[0] != CODES[Verdict.INCONCLUSIVE]),
        power=power,
        mean_pairs=mean_pairs,
        alarms={
            "means of two blocks": Rate.of(timings.mean_of_blocks + unchanged < 0),
            "medians of two blocks": Rate.of(timings.median_of_blocks + unchanged < 0),
            "this plugin": Rate.of(suite_failures(pairs, on_threshold + unchanged)),
        },
    )


def check_decide(timings: Timings) -> None:
    """``decide`` counts where ``judge`` sorts; they must agree."""
    plan = plan_of(DEFAULT_LOOKS, ErrorBudget(timings.pairs.shape[1]).grant())
    some = timings.pairs.reshape(-1, timings.pairs.shape[-1])[:NUM_CHECKED]
    for effect in (-0.1, 0.0, 0.1):
        codes, used = decide(some + effect, plan)
        for logs, code, num_pairs in zip(some + effect, codes, used, strict=True):
            assert judge_one(logs, plan) == (code, num_pairs)


def decisive(quality: Quality, effect: float) -> Rate:
    """The power at ``effect`` with all pairs, on the weaker side."""
    sides = [quality.power[verdict, effect][-1] for verdict in (Verdict.PASS, Verdict.FAIL)]
    return min(sides, key=lambda rate: rate.share)


def worst_rates(qualities: dict[str, Quality]) -> dict[str, Rate]:
    """The rates to publish, each under the noise where it is worst."""
    declared = [quality for name, quality in qualities.items() if name != BEYOND_DECLARED]
    rates = {
        "false_fail_rate": [rate for quality in qualities.values() for rate in quality.false_fails.values()],
        "wrong_verdict_rate_at_threshold": [quality.wrong_verdicts for quality in qualities.values()],
    }
    powers = {
        f"power_at_{100 * effect:.0f}_percent": [decisive(quality, effect) for quality in declared]
        for effect in EFFECTS
    }
    beyond = {"power_at_10_percent_beyond_declared_noise": decisive(qualities[BEYOND_DECLARED], 0.10)}
    worst = {key: max(some, key=lambda rate: rate.share) for key, some in rates.items()}
    return worst | {key: min(some, key=lambda rate: rate.share) for key, some in powers.items()} | beyond
