from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from pytest_grpo.measuring.deciding import Decider, Decision
from pytest_grpo.measuring.question import Question
from pytest_grpo.measuring.sampling.rounds import Round, RoundSampler
from pytest_grpo.measuring.sampling.sample import Arm
from pytest_grpo.measuring.statistics.error_budget import ErrorBudget
from pytest_grpo.measuring.statistics.sign_test import DEFAULT_LOOKS
from pytest_grpo.types import Sample, Verdict


class Clock:
    """Seconds that pass only while an arm runs."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def arm(self, seconds: Callable[[], float]) -> Arm:
        def run() -> Sample:
            took_s = seconds()
            self.now_s += took_s
            return Sample(took_s)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pytest_grpo.measuring.sampling.rounds.time.perf_counter", clock)
    return clock


def values(taken: Round) -> tuple[float, float]:
    return taken["a"].value("seconds"), taken["b"].value("seconds")


def decider_of(
    a: Arm, b: Arm, *, low: float = -math.inf, high: float = 1.1, budget_s: float = 45, alpha: float = 0.001
) -> Decider:
    """Whether the ratio of the seconds of ``a`` to those of ``b`` lies in [``low``, ``high``]."""

    def take(arm: Arm, name: str, repeats: int) -> Sample:
        sample = arm()
        assert isinstance(sample, Sample)
        return sample

    sampler = RoundSampler({"a": a, "b": b}, budget_s, rng=random.Random(1), take=take, is_simulated=True)
    return Decider(sampler, Question(("a", "b"), values, low, high), DEFAULT_LOOKS, alpha)


def decide(*arguments: Arm, **settings: float) -> tuple[Decision, Decider]:
    decider = decider_of(*arguments, **settings)  # pyright: ignore[reportArgumentType]
    return decider.decide(), decider


def constant(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def repeating(*seconds: float) -> Callable[[], float]:
    def endless() -> Iterator[float]:
        while True:
            yield from seconds

    return endless().__next__


# Time


def test_time_that_ends_at_a_planned_look_spends_what_is_left(clock: Clock) -> None:
    """Ten times worse in the 8 pairs that the time holds."""
    decider = decider_of(clock.arm(constant(10.0)), clock.arm(constant(1.0)), budget_s=1e9, alpha=0.009)
    sampler = decider.sampler
    sampler.take_until(8)
    sampler.budget_s = sampler.first_budget_s = 1.0  # over, whatever it is extended by
    assert decider.decide().verdict is Verdict.FAIL
    assert len(sampler.rounds) == 8


def test_slow_arms_get_the_pairs_that_a_failure_needs(clock: Clock) -> None:
    decision, decider = decide(clock.arm(constant(6.0)), clock.arm(constant(5.0)))
    assert decision.verdict is Verdict.FAIL
    assert len(decider.sampler.rounds) == decider.pace.num_needed
    assert 45 < decider.sampler.spent_s <= 5 * 45


def test_slow_arms_that_are_good_pass_without_more_time_than_that(clock: Clock) -> None:
    decision, decider = decide(clock.arm(constant(5.0)), clock.arm(constant(6.0)))
    assert decision.verdict is Verdict.PASS
    assert len(decider.sampler.rounds) == 8


def test_arms_that_are_too_slow_are_told_so_beforehand(clock: Clock) -> None:
    shown: list[tuple[int, str]] = []
    decider = decider_of(clock.arm(constant(30.0)), clock.arm(constant(30.0)))
    decider.show = lambda text: shown.append((len(decider.sampler.rounds), text))
    decision = decider.decide()
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert not decision.is_complete
    warning = "a pair takes 60 s: 225 s are not enough for the 12 pairs that a failure needs; give --grpo-budget 175"
    assert shown[1] == (1, f"[{warning}]")


# The session's error budget


@pytest.mark.parametrize("num_before", [0, 9, 10, 49, 199])
def test_ten_times_worse_is_a_failure_in_each_comparison_of_a_session(clock: Clock, num_before: int) -> None:
    budget = ErrorBudget(1)
    for _ in range(num_before):
        budget.grant()
    decision, _ = decide(clock.arm(constant(0.1)), clock.arm(constant(0.01)), alpha=budget.grant())
    assert decision.verdict is Verdict.FAIL


# Stalls


def test_stalls_fail_where_the_median_passes(clock: Clock) -> None:
    stalling = clock.arm(repeating(0.1, 0.1, 0.5))
    decision, decider = decide(stalling, clock.arm(constant(0.1)))
    assert decision.verdict is Verdict.FAIL
    assert (
        decision.stalls == "stalls: 20 of 60 samples of arm a took 5 times its median; the ratio of the means is 2.33"
    )
    assert decision.estimate is not None
    assert decision.estimate.median == pytest.approx(1)
    assert len(decider.sampler.rounds) == 60


def test_one_hiccup_of_the_machine_costs_pairs_and_no_verdict(clock: Clock) -> None:
    seconds = iter([0.1] * 12 + [3.0] + [0.1] * 200)
    decision, _ = decide(clock.arm(seconds.__next__), clock.arm(constant(0.1)))
    assert (decision.verdict, decision.stalls) == (Verdict.PASS, "")


def test_stalls_of_a_rate_are_low_values(clock: Clock) -> None:
    stalling = clock.arm(repeating(0.1, 0.1, 0.5))
    decider = decider_of(stalling, clock.arm(constant(0.1)))
    decider.question = Question(
        ("a", "b"), lambda taken: (1 / values(taken)[0], 1 / values(taken)[1]), 0.9, math.inf, is_rate=True
    )
    decider.pace.question = decider.question
    assert decider.decide().stalls.endswith("; the ratio of the means is 0.429")


# Carry-over


def carrying(clock: Clock, factor: float) -> tuple[Arm, Arm]:
    """Arm a takes ``factor`` as long right after arm b."""
    ran = [""]

    def seconds(name: str) -> float:
        previous, ran[0] = ran[0], name
        return 0.1 * (factor if (name, previous) == ("a", "b") else 1)

    return clock.arm(lambda: seconds("a")), clock.arm(lambda: seconds("b"))


@pytest.mark.parametrize(("factor", "words"), [(1.15, "15 % longer"), (0.85, "15 % less")])
def test_carry_over_is_said_and_measured_in_blocks(clock: Clock, factor: float, words: str) -> None:
    decision, decider = decide(*carrying(clock, factor), low=0.93, high=1.07)
    assert decision.verdict is Verdict.PASS
    assert decider.pace.note == (
        f"carry-over: arm a takes {words} right after the other arm, so it is measured in blocks"
    )
    assert decider.question.ratios(decider.sampler.rounds) == pytest.approx([1.0] * 8)


def test_carry_over_that_cannot_matter_costs_no_more_pairs(clock: Clock) -> None:
    decision, decider = decide(*carrying(clock, 1.15), high=3.0)
    assert decision.verdict is Verdict.PASS
    doubled = [order.first_samples is not None for order in decider.sampler.orders]
    assert doubled == [True] * 2 + [False] * 6


def test_near_the_threshold_each_sample_follows_its_own_arm(clock: Clock) -> None:
    rng = random.Random(3)
    noisy = [clock.arm(lambda: 0.1 * rng.lognormvariate(0, 0.04)) for _ in range(2)]
    _, decider = decide(*noisy, high=1.05)
    assert all(order.first_samples is not None for order in decider.sampler.orders)
    assert decider.pace.note == ""


# Another question


def test_a_pass_stands_while_another_question_takes_more_pairs(clock: Clock) -> None:
    seen: list[int] = []

    def wants_more(ratios: Sequence[float]) -> bool:
        seen.append(len(ratios))
        return len(ratios) < 18

    decider = decider_of(clock.arm(repeating(0.1)), clock.arm(constant(0.1)))
    decider.wants_more = wants_more
    assert decider.decide().verdict is Verdict.PASS
    assert seen == [8, 12, 18]
    assert len(decider.sampler.rounds) == 18
