"""A run of the whole loop until it has reached a reward: the steps and the seconds that it took."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_core.schedule.reports import StepReport
    from grpo_core.schedule.stack import Stack


@dataclass(frozen=True, slots=True)
class Goal:
    """The mean reward over ``window`` steps reaches ``reward``, within ``max_steps``."""

    reward: float
    window: int
    max_steps: int


@dataclass(frozen=True, slots=True)
class Race:
    """What one run took. One that did not reach the goal has the steps and seconds of all its steps."""

    is_reached: bool
    num_steps: int
    seconds: float


def first_run() -> dict[str, Any]:
    """The nested settings of ``grpo train`` without arguments."""
    from grpo_core.commands.train import FIRST_RUN
    from grpo_core.config.flags import put

    values: dict[str, Any] = {}
    for key, value in FIRST_RUN.items():
        put(values, key, value)
    return values


def steps_to(rewards: Sequence[float], reward: float, window: int) -> int | None:
    """The first step with a full window whose mean of ``rewards`` [steps] reaches ``reward``, else None."""
    ends = range(window, len(rewards) + 1)
    return next((end for end in ends if sum(rewards[end - window : end]) / window >= reward), None)


def race_to(stack: Stack, goal: Goal) -> Race:
    """Train ``stack`` until ``goal``.

    Raises:
        GrpoError: the run fails.
    """
    from grpo_core.schedule.interrupt import StopRequest
    from grpo_core.schedule.loop import train
    from grpo_core.telemetry.events import Telemetry

    stop, rewards, finished = StopRequest(), [], []

    def on_step(report: StepReport) -> None:
        rewards.append(report.rollout.sampled_reward_mean)
        finished.append(time.perf_counter())
        if steps_to(rewards, goal.reward, goal.window):
            stop.set(signal.SIGINT)

    start = time.perf_counter()
    train(stack, Telemetry("race", ()), save_checkpoints=False, on_step=on_step, stop=stop)
    reached = steps_to(rewards, goal.reward, goal.window)
    last = len(rewards) if reached is None else reached
    return Race(reached is not None, last, finished[last - 1] - start)
