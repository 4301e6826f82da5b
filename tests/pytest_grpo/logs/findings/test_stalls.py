from __future__ import annotations

import math

import pytest

from pytest_grpo.logs.findings.stalls import find_stalls
from pytest_grpo.logs.vocabulary.quantities import STEP, part
from tests.pytest_grpo.logs.made_runs import run_of, times

SAVE = part("save_checkpoint")


def test_a_quiet_run_has_none() -> None:
    for seed in range(20):
        assert find_stalls(run_of({STEP: times(200, 0.1, memory=0.5, seed=seed)}), STEP).steps == ()


def test_a_stall_has_its_step_its_factor_and_its_cost() -> None:
    values = times(100, 0.01)
    values[39] = 12.0
    found = find_stalls(run_of({STEP: values}), STEP)
    assert found.steps == (40,)
    assert found.factor == pytest.approx(6.0, rel=0.05)
    assert found.cost == pytest.approx(10 / 210, rel=0.05)
    assert (found.every, found.part, found.num_steps) == (None, "", 100)


def test_stalls_at_equal_distances_have_a_period_and_the_part_that_takes_the_time() -> None:
    values = times(100, 0.01)
    saves = [math.nan] * 100
    for place in (24, 49, 74, 99):
        values[place] += 8.0
        saves[place] = 8.0
    found = find_stalls(run_of({STEP: values, SAVE: saves, part("gen"): times(100, 0.01, level_s=1.0)}), STEP)
    assert (found.steps, found.every, found.part) == ((25, 50, 75, 100), 25, "save_checkpoint_s")


def test_a_shift_is_no_stall_and_a_stall_after_it_is_measured_by_the_new_level() -> None:
    values = [value * (3 if place >= 50 else 1) for place, value in enumerate(times(100, 0.01))]
    assert find_stalls(run_of({STEP: values}), STEP).steps == ()
    values[80] *= 2
    found = find_stalls(run_of({STEP: values}), STEP)
    assert found.steps == (81,)
    assert found.factor == pytest.approx(2.0, rel=0.05)


def test_less_than_half_of_a_median_is_noise_however_quiet_the_run() -> None:
    values = [2.0] * 60
    values[30] = 2.9
    assert find_stalls(run_of({STEP: values}), STEP).steps == ()
    values[30] = 3.1
    assert find_stalls(run_of({STEP: values}), STEP).steps == (31,)


def test_steps_without_a_value_are_passed_over() -> None:
    values = times(60, 0.01)
    values[10], values[30] = math.nan, 9.0
    assert find_stalls(run_of({STEP: values}), STEP).steps == (31,)


def test_long_steps_that_come_every_few_steps_are_a_cycle() -> None:
    values = [value * (4 if place % 4 == 0 else 1) for place, value in enumerate(times(100, 0.01))]
    found = find_stalls(run_of({STEP: values}), STEP)
    assert (found.every, found.is_cycle) == (4, True)
    now_and_then = [
        value * (4 if place % 4 == 0 and place != 40 else 1) for place, value in enumerate(times(100, 0.01))
    ]
    assert not find_stalls(run_of({STEP: now_and_then}), STEP).is_cycle
