from __future__ import annotations

import pytest

from pytest_grpo.logs.settled import at_steps, settle
from pytest_grpo.logs.vocabulary.quantities import STEP
from tests.pytest_grpo.logs.made_runs import run_of, times


def test_the_steps_after_each_start_are_left_out() -> None:
    found = settle(run_of({STEP: times(60)}, starts=(1, 41)), 3)
    assert found.warm_up == (1, 2, 3, 41, 42, 43)
    assert len(found.log.steps) == len(found.log.columns[STEP]) == 54
    assert set(found.log.steps).isdisjoint(found.warm_up)


def test_a_start_that_is_not_logged_counts_from_the_next_step() -> None:
    assert settle(run_of({STEP: times(60)}, first_step=10, starts=(7, 200)), 2).warm_up == (10, 11)


def test_no_warm_up_leaves_all() -> None:
    assert settle(run_of({STEP: times(60)}), 0).warm_up == ()


def test_too_few_steps_are_one_line() -> None:
    with pytest.raises(pytest.UsageError) as error:
        settle(run_of({STEP: times(32)}, name="short"), 3)
    assert str(error.value) == ("short: 29 logged steps without the 3 of warm-up; 30 are needed: judge a longer run")


def test_some_steps_of_a_run() -> None:
    found = at_steps(run_of({STEP: [1.0, 2.0, 3.0]}), {1, 3, 9})
    assert (found.steps, found.columns[STEP]) == ((1, 3), (1.0, 3.0))
