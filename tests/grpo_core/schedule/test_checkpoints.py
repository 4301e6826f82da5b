"""After which steps a checkpoint is due, and that a killed run has one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grpo_core.config import ScheduleConfig
from grpo_core.schedule.checkpoints import CheckpointClock
from grpo_core.schedule.loop import train
from grpo_core.schedule.reports import StepReport
from grpo_core.schedule.stack import Stack
from tests.grpo_core.schedule.run import losses, quiet

MakeStack = Callable[..., Stack]

BY_TIME = ScheduleConfig(checkpoint_every_steps=10**6, checkpoint_every_s=120)


def due_steps(clock: CheckpointClock, step_s: float, save_s: float, num_steps: int) -> list[int]:
    """Of steps that take ``step_s`` each, those after which a checkpoint is saved, which takes ``save_s``."""
    now, due = 0.0, []
    for step in range(1, num_steps + 1):
        now += step_s
        if clock.is_due(step, now):
            due.append(step)
            clock.saved(now, now + save_s)
            now += save_s
    return due


def test_the_first_step_is_saved_and_then_two_minutes_of_work() -> None:
    assert due_steps(CheckpointClock(BY_TIME, None), step_s=30, save_s=0.5, num_steps=13) == [1, 5, 9, 13]


def test_a_long_step_is_saved_at_once() -> None:
    assert due_steps(CheckpointClock(BY_TIME, None), step_s=500, save_s=1, num_steps=3) == [1, 2, 3]


def test_saving_takes_at_most_a_fiftieth_of_the_time() -> None:
    due = due_steps(CheckpointClock(BY_TIME, None), step_s=30, save_s=15, num_steps=101)

    assert due == [1, 26, 51, 76, 101]
    assert 15 / (25 * 30 + 15) <= 0.02


def test_steps_are_counted_as_well() -> None:
    schedule = ScheduleConfig(checkpoint_every_steps=4)
    assert due_steps(CheckpointClock(schedule, None), step_s=1, save_s=60, num_steps=13) == [1, 4, 8, 12]


def test_a_resumed_run_has_its_checkpoint_already() -> None:
    assert due_steps(CheckpointClock(BY_TIME, 0.0), step_s=50, save_s=1, num_steps=6) == [3, 6]


def test_a_run_that_is_killed_in_its_second_step_goes_on_from_the_first(make_stack: MakeStack) -> None:
    """Between two checkpoints by count, by default 50 steps."""
    whole = train(make_stack(home="whole"), quiet())

    def kill(report: StepReport) -> None:
        if report.metrics.step == 2:
            raise KeyboardInterrupt  # nothing is saved after that

    with pytest.raises(KeyboardInterrupt):
        train(make_stack(), quiet(), on_step=kill)
    resumed = train(make_stack(), quiet(), resume=True)

    assert [report.metrics.step for report in resumed.reports] == [2, 3, 4]
    assert losses(resumed) == losses(whole)[1:]
