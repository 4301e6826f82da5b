from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from pytest_grpo.logs.comparing import Comparison, Difference, Outcome, compare_runs
from pytest_grpo.logs.settled import settle
from pytest_grpo.logs.vocabulary.quantities import PEAK_MEMORY, REWARD, STEP, TOKENS, Quantity, part
from tests.pytest_grpo.logs.made_runs import run_of, times, waves

GEN = part("gen")
Columns = Mapping[Quantity, Sequence[float]]


def compare(here: Columns, there: Columns, run_spread: float = 0.0, tolerance: float = 0.02) -> Comparison:
    mine, its = settle(run_of(here, name="here"), 3), settle(run_of(there, name="there"), 3)
    return compare_runs(mine, its, list(here), tolerance, run_spread)


def one(here: Columns, there: Columns, run_spread: float = 0.0, tolerance: float = 0.02) -> Difference:
    (found,) = compare(here, there, run_spread, tolerance).differences
    return found


def slower(by: float) -> list[float]:
    return [value * (1 + by) for value in times(200, memory=0.3, seed=1)]


def test_a_run_that_takes_longer_is_worse_and_one_that_takes_less_is_better() -> None:
    found = one({STEP: slower(0.1)}, {STEP: times(200, memory=0.3)})
    assert found.outcome is Outcome.WORSE
    assert found.change is not None
    assert found.change.low < 0.1 < found.change.high
    assert (found.here, found.there) == (pytest.approx(2.2, rel=0.01), pytest.approx(2.0, rel=0.01))
    assert one({STEP: times(200)}, {STEP: slower(0.1)}).outcome is Outcome.BETTER
    assert one({TOKENS: slower(0.1)}, {TOKENS: times(200)}).outcome is Outcome.BETTER


def test_equal_runs_are_the_same_only_when_runs_do_not_spread() -> None:
    here, there = {STEP: times(400, 0.01)}, {STEP: times(400, 0.01, seed=1)}
    assert one(here, there).outcome is Outcome.SAME
    assert one(here, there, run_spread=0.05).outcome is Outcome.UNCLEAR


def test_a_difference_that_two_runs_of_one_code_may_have_is_unclear_and_says_so() -> None:
    found = one({STEP: slower(0.1)}, {STEP: times(200)}, run_spread=0.05)
    assert found.outcome is Outcome.UNCLEAR
    assert found.reason == "these two runs differ, but two runs of one code may differ by 20 %"
    assert one({STEP: slower(0.4)}, {STEP: times(200)}, run_spread=0.05).outcome is Outcome.WORSE


def test_noise_that_hides_a_difference_is_unclear() -> None:
    found = one({STEP: times(40, 0.3)}, {STEP: times(40, 0.3, seed=1)})
    assert (found.outcome, found.reason) == (Outcome.UNCLEAR, "the interval spans 0")


def test_memory_does_not_spread_between_runs() -> None:
    here, there = {PEAK_MEMORY: [1.1e9] * 60}, {PEAK_MEMORY: [1.0e9] * 60}
    assert one(here, there, run_spread=0.05).outcome is Outcome.WORSE
    assert one(here, here, run_spread=0.05).outcome is Outcome.SAME


def test_rewards_and_parts_are_shown_without_a_verdict() -> None:
    found = compare({REWARD: times(60), GEN: times(60)}, {REWARD: slower(1.0)[:60], GEN: slower(1.0)[:60]})
    assert [each.outcome for each in found.differences] == [Outcome.SHOWN, Outcome.SHOWN]
    assert not found.is_bad


def test_what_both_runs_do_as_they_learn_is_no_difference() -> None:
    """Completions get three times as long in both: steps of one number are compared."""
    grows = [1 + 2 * step / 200 for step in range(200)]
    here = [value * growth for value, growth in zip(times(200, 0.01), grows, strict=True)]
    there = [value * growth for value, growth in zip(times(200, 0.01, seed=1), grows, strict=True)]
    assert one({STEP: here}, {STEP: there}).outcome is Outcome.SAME


def test_only_common_steps_and_common_quantities_are_compared() -> None:
    mine = settle(run_of({STEP: times(100), REWARD: times(100)}), 3)
    its = settle(run_of({STEP: times(100)}, first_step=41), 3)
    found = compare_runs(mine, its, [STEP, REWARD], 0.02, 0.0)
    assert (found.steps[0], found.steps[-1]) == (44, 100)
    assert [each.quantity for each in found.differences] == [STEP]


def test_too_few_common_steps_are_one_line() -> None:
    mine, its = settle(run_of({STEP: times(60)}), 3), settle(run_of({STEP: times(60)}, first_step=50, name="b"), 3)
    with pytest.raises(pytest.UsageError) as error:
        compare_runs(mine, its, [STEP], 0.02, 0.0)
    assert str(error.value) == (
        "--against b: 8 steps in common with run, without the warm-up; 30 are needed: "
        "compare runs that logged the same steps"
    )


def test_stalls_of_both_runs_are_counted() -> None:
    stalled = times(100, 0.01)
    stalled[50] = 22.0
    costs = compare({STEP: stalled}, {STEP: times(100, 0.01)}).stall_costs
    assert costs is not None
    assert costs[0] == pytest.approx(20 / 214, rel=0.1)
    assert costs[1] == 0.0


def test_values_that_few_steps_have_or_that_are_too_alike_are_not_compared() -> None:
    few = [*times(20), *[float("nan")] * 80]
    found = compare({STEP: times(100), TOKENS: few}, {STEP: waves(100), TOKENS: few}).differences
    assert [each.outcome for each in found] == [Outcome.UNCLEAR, Outcome.UNCLEAR]
    assert found[1].reason == "17 steps have it in both runs; 30 are needed"


def test_runs_that_part_in_the_middle_differ_by_what_they_differ_on_average() -> None:
    parts = [value * (1.2 if step >= 100 else 1) for step, value in enumerate(times(200, 0.01, seed=1))]
    found = one({STEP: parts}, {STEP: times(200, 0.01)})
    assert found.outcome is Outcome.WORSE
    assert found.change is not None
    assert found.change.low < math.sqrt(1.2) - 1 < found.change.high < 0.11
    assert found.here / found.there - 1 == pytest.approx(found.change.value, abs=0.01)
