"""One run of the whole loop, as it trains, until it has reached a reward: the steps and the seconds that it took."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.learning_arms.run import LearningRun


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


def race(settings: Mapping[str, Any], seed: int, goal: Goal, folder: Path) -> Race:
    """Train with the nested ``settings`` and ``seed`` until ``goal``. Loading the model is not in the seconds.

    Raises:
        GrpoError: the settings are not allowed, or the run fails.
    """
    from grpo_core.config import build_config
    from grpo_core.config.values import merged
    from grpo_core.home import Home
    from grpo_core.schedule.interrupt import StopRequest
    from grpo_core.schedule.loop import StepReport, train
    from grpo_core.schedule.stack import build_stack
    from grpo_core.telemetry.events import Telemetry

    own = {"run": "race", "rollout": {"seed": seed}, "schedule": {"num_steps": goal.max_steps}}
    config = build_config(merged(settings, own))
    stop, rewards, finished = StopRequest(), [], []

    def on_step(report: StepReport) -> None:
        rewards.append(report.rollout.sampled_reward_mean)
        finished.append(time.perf_counter())
        if LearningRun(tuple(rewards), ()).steps_to(goal.reward, goal.window):
            stop.set(signal.SIGINT)

    with build_stack(config, Home(data=folder / "data", traces=folder / "traces")) as stack:
        start = time.perf_counter()
        train(stack, Telemetry("race", ()), save_checkpoints=False, on_step=on_step, stop=stop)
    num_steps = LearningRun(tuple(rewards), ()).steps_to(goal.reward, goal.window)
    last = num_steps if num_steps is not None else len(rewards)
    return Race(num_steps is not None, last, finished[last - 1] - start)
