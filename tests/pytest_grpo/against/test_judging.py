from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from pytest_grpo.against.judging import (
    PROCESS_MARGIN,
    bounds,
    judge_change,
    judge_count,
    judge_one,
    judge_stalls,
    quantities_of,
    question_of,
    small_part,
)
from pytest_grpo.measuring.deciding import plan_of
from pytest_grpo.measuring.statistics.sign_test import DEFAULT_LOOKS, Plan
from pytest_grpo.types import Outcome, Sample

PLAN = plan_of(DEFAULT_LOOKS, alpha=1e-3 / 2)
NAMES = ("here", "main")


def pairs(ratio: float, num: int, noise: float = 0.01, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [ratio * math.exp(rng.gauss(0, noise)) for _ in range(num)]


@pytest.mark.parametrize(
    ("quantity", "ratio", "outcome"),
    [
        ("seconds", 0.8, Outcome.FASTER),
        ("seconds", 1.2, Outcome.SLOWER),
        ("loss_forward_ms", 1.2, Outcome.SLOWER),
        ("tokens_per_second", 1.2, Outcome.FASTER),
        ("tokens_per_second", 0.8, Outcome.SLOWER),
        ("num_steps_per_second", 0.8, Outcome.SLOWER),
        ("peak_bytes", 1.2, Outcome.MORE),
        ("peak_bytes", 0.8, Outcome.LESS),
        ("seconds", 1.0, Outcome.SAME),
    ],
)
def test_direction_is_that_of_the_quantity(quantity: str, ratio: float, outcome: Outcome) -> None:
    assert judge_change(pairs(ratio, 40), quantity, 0.05, PLAN, is_last=True).outcome is outcome


def test_a_change_within_the_tolerance_is_the_same_even_if_it_is_certain() -> None:
    change = judge_change(pairs(0.97, 40, noise=0.001), "tokens_per_second", 0.05, PLAN, is_last=True)
    assert change.outcome is Outcome.SAME
    assert change.estimate.high < 1


def test_a_change_that_may_be_smaller_than_the_tolerance_gets_all_pairs() -> None:
    ratios = pairs(0.95, 40, noise=0.02)
    early, last = (judge_change(ratios[:num], "tokens_per_second", 0.05, PLAN, is_last=num == 40) for num in (27, 40))
    assert (early.outcome, early.is_final) == (Outcome.INCONCLUSIVE, False)
    assert last.outcome is Outcome.SLOWER


def test_a_change_that_may_be_one_of_the_processes_is_inconclusive() -> None:
    """All pairs lie below 1, as of two processes whose memory lies differently."""
    ratios = [0.9, 0.99] * 20
    change = judge_change(ratios, "backward_ms", 0.05, PLAN, is_last=True)
    assert 1 - PROCESS_MARGIN < change.estimate.high < 1
    assert change.outcome is Outcome.INCONCLUSIVE
    clear = judge_change([0.95 * ratio for ratio in ratios], "backward_ms", 0.05, PLAN, is_last=True)
    assert clear.outcome is Outcome.FASTER


def test_a_tolerance_below_the_margin_of_processes_is_taken_by_its_word() -> None:
    ratios = pairs(0.985, 40, noise=0.0001)
    assert judge_change(ratios, "seconds", 0.01, PLAN, is_last=True).outcome is Outcome.FASTER


def test_noise_that_hides_everything_is_inconclusive() -> None:
    change = judge_change(pairs(1.0, 40, noise=0.5), "seconds", 0.05, PLAN, is_last=True)
    assert change.outcome is Outcome.INCONCLUSIVE


def outcome_of(ratios: Sequence[float], plan: Plan = PLAN, tolerance: float = 0.05) -> Outcome:
    """As ``take_pairs`` decides: at each look until one is final."""
    looks = (
        judge_change(ratios[:look], "seconds", tolerance, plan, is_last=look == DEFAULT_LOOKS[-1])
        for look in DEFAULT_LOOKS
    )
    return next((change.outcome for change in looks if change.is_final), Outcome.INCONCLUSIVE)


def test_equal_versions_are_called_different_as_rarely_as_their_share_says() -> None:
    """With a share of 5 % and noise that makes ``same`` rare, at most 5 % of 2,000 comparisons are wrong."""
    plan = plan_of(DEFAULT_LOOKS, alpha=0.05 / 2)
    wrong = 0
    for seed in range(2_000):
        ratios = pairs(1.0, 40, noise=0.2, seed=seed)
        wrong += outcome_of(ratios, plan, tolerance=0.001) in (Outcome.FASTER, Outcome.SLOWER)
    assert 0 < wrong <= 0.05 * 2_000


def test_a_tenth_slower_is_found_at_the_declared_noise() -> None:
    found = [outcome_of(pairs(1.1, 40, noise=0.04, seed=seed)) for seed in range(200)]
    assert found.count(Outcome.SLOWER) >= 0.95 * len(found)


def test_work_is_compared_by_its_rate_and_parts_by_themselves() -> None:
    assert quantities_of(["tokens", "loads", "forward_ms", "num_passes", "peak_bytes"], ["loads_per_second"]) == [
        "loads_per_second",
        "forward_ms",
        "peak_bytes",
    ]
    assert quantities_of(["tokens"], ["seconds"]) == ["tokens_per_second"]
    assert quantities_of(["forward_ms"], []) == ["seconds", "forward_ms"]
    assert quantities_of([], []) == ["seconds"]


def rounds_of(*samples: tuple[Sample, Sample]) -> list[dict[str, Sample]]:
    return [dict(zip(NAMES, pair, strict=True)) for pair in samples]


def test_a_part_that_takes_no_time_is_not_judged() -> None:
    tiny = rounds_of((Sample(1.0, {"unaccounted_ms": 0.4}), Sample(1.0, {"unaccounted_ms": 0.1})))
    change = small_part(tiny, NAMES, "unaccounted_ms")
    assert change is not None
    assert (change.outcome, change.reason) == (Outcome.NOT_COMPARED, "it is 0.04 % of the arm's seconds")
    large = rounds_of((Sample(1.0, {"unaccounted_ms": 400}), Sample(1.0, {"unaccounted_ms": 0.1})))
    assert small_part(large, NAMES, "unaccounted_ms") is None
    assert small_part(tiny, NAMES, "seconds") is None


@pytest.mark.parametrize(("stalled", "outcome"), [("here", Outcome.SLOWER), ("main", Outcome.SAME)])
@pytest.mark.parametrize("quantity", ["seconds", "tokens_per_second"])
def test_every_third_sample_five_times_as_long_is_slower(stalled: str, outcome: Outcome, quantity: str) -> None:
    rng = random.Random(1)

    def sample(name: str, place: int) -> Sample:
        stall = 5.0 if name == stalled and place % 3 == 0 else 1.0
        return Sample(stall * rng.uniform(0.99, 1.01), {"tokens": 8})

    rounds = rounds_of(*((sample("here", place), sample("main", place)) for place in range(60)))
    question = question_of(quantity, NAMES, 0.05)
    same = judge_change([1.0] * 60, quantity, 0.05, PLAN, is_last=True)
    found = judge_stalls(same, question, quantity, rounds, alpha=1e-3)
    assert found.outcome is outcome
    assert ("stalls" in found.reason) == (outcome is Outcome.SLOWER)


def test_counts_are_exact_and_one_pair_of_bytes_has_the_tolerance() -> None:
    assert [judge_count(here, 2) for here in (1, 2, 3)] == [Outcome.LESS, Outcome.SAME, Outcome.MORE]
    outcomes = [judge_one(here, 100, "peak_bytes", 0.05).outcome for here in (90, 97, 112)]
    assert outcomes == [Outcome.LESS, Outcome.SAME, Outcome.MORE]
    low, high = bounds(0.05)
    assert low * high == pytest.approx(1.0)
