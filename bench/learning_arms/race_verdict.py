"""Pairs of races, one per seed, and the verdict on their ratios: the sequential sign test of the gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.checks.learning import Race
from pytest_grpo.measuring.statistics.sign_test import Estimate, Plan, judge
from pytest_grpo.types import Verdict

NEVER = 1e9
"""The ratio of a change that did not reach the reward."""

RunPair = Callable[[int], "Pair"]
"""Races both arms with the seed of this number."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both arms with one seed."""

    seed: int
    changed: Race
    base: Race

    @property
    def is_informative(self) -> bool:
        """One of them reached the goal: the other's limit then bounds the ratio."""
        return self.changed.is_reached or self.base.is_reached

    def ratio(self, quantity: str) -> float:
        """Of ``seconds`` or ``num_steps``, changed to base. A base that gave up counts with what it took, so the true
        ratio is lower still; a change that gave up never reaches the reward, which no other ratio exceeds."""
        if not self.changed.is_reached:
            return NEVER
        return float(getattr(self.changed, quantity)) / float(getattr(self.base, quantity))


@dataclass(frozen=True, slots=True)
class RaceVerdict:
    """``estimate`` is of the ratio of the seconds."""

    verdict: Verdict
    estimate: Estimate
    pairs: tuple[Pair, ...]


def decide(run_pair: RunPair, at_most: float, plan: Plan, seeds: Sequence[int]) -> RaceVerdict:
    """Race pairs until a look of ``plan`` decides whether the seconds' median ratio is at most ``at_most``, or the
    seeds are used up.

    Raises:
        ValueError: neither arm reached the goal with a seed: nothing can be said.
    """
    pairs: list[Pair] = []
    for place, seed in enumerate(seeds):
        pair = run_pair(seed)
        if not pair.is_informative:
            raise ValueError(f"seed {seed}: neither arm reached the reward; lower --reward, or raise --max-steps")
        pairs.append(pair)
        is_last = place == len(seeds) - 1
        if len(pairs) in plan.looks or is_last:
            ratios = [each.ratio("seconds") for each in pairs]
            verdict, estimate = judge(ratios, -math.inf, at_most, plan, is_last=is_last)
            if verdict is not Verdict.INCONCLUSIVE or is_last:
                return RaceVerdict(verdict, estimate, tuple(pairs))
    raise AssertionError("there is at least one seed")


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Of many simulated comparisons: the share of each verdict, and the mean number of pairs."""

    passed: float
    failed: float
    inconclusive: float
    mean_pairs: float


def simulate(true_ratio: float, spread: float, at_most: float, plan: Plan, num: int, seed: int = 0) -> ErrorRates:
    """Comparisons whose log ratios are normal around that of ``true_ratio`` with standard deviation ``spread``."""
    draw = np.random.default_rng(seed)
    counts, num_pairs = dict.fromkeys(Verdict, 0), 0
    for _ in range(num):
        verdict, used = _simulated(draw.normal(math.log(true_ratio), spread, plan.looks[-1]), at_most, plan)
        counts[verdict] += 1
        num_pairs += used
    return ErrorRates(
        passed=counts[Verdict.PASS] / num,
        failed=counts[Verdict.FAIL] / num,
        inconclusive=counts[Verdict.INCONCLUSIVE] / num,
        mean_pairs=num_pairs / num,
    )


def _simulated(logs: np.ndarray, at_most: float, plan: Plan) -> tuple[Verdict, int]:
    ratios = np.exp(logs).tolist()
    for look in plan.looks:
        verdict, _ = judge(ratios[:look], -math.inf, at_most, plan)
        if verdict is not Verdict.INCONCLUSIVE:
            return verdict, look
    return Verdict.INCONCLUSIVE, plan.looks[-1]


def spread_of(pairs: Sequence[Pair], quantity: str) -> float:
    """The standard deviation of the pairs' log ratios."""
    return float(np.std([math.log(pair.ratio(quantity)) for pair in pairs], ddof=1)) if len(pairs) > 1 else math.nan


def rate_lines(spread: float, at_most: float, plan: Plan, num: int, ratios: Sequence[float]) -> Iterator[str]:
    """A Markdown table: one row for each true ratio."""
    yield "| true ratio | pass | fail | inconclusive | pairs |"
    yield "|---|---|---|---|---|"
    for ratio in ratios:
        found = simulate(ratio, spread, at_most, plan, num)
        shares = (f"{100 * share:.1f} %" for share in (found.passed, found.failed, found.inconclusive))
        yield f"| {ratio:.2f} | {' | '.join(shares)} | {found.mean_pairs:.0f} |"
