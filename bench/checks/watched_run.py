"""A run of any system, watched from outside, and the same steps again and again.

The reward function is the border where a run can be watched: every episode passes it, with its answers.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_grpo.systems.protocol import GrpoSystem
from pytest_grpo.systems.run_plan import Reward, RunPlan
from pytest_grpo.systems.step_record import StepRecord

PROMPTS = ("Q: 3 + 4 =\nA:", "Orders of France, Spring 1901:", "Dear friend, in the spring the fleet left")


@dataclass(frozen=True, slots=True)
class Earned:
    """One call of the reward function, ``at_s`` on the clock ``time.perf_counter``."""

    at_s: float
    prompt: str
    answers: tuple[str, ...]
    reward: float


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """What a run told, and what was seen of it. ``earned`` has the episodes of all batches in order."""

    plan: RunPlan
    num_steps: int
    records: Sequence[StepRecord]
    earned: Sequence[Earned]
    started_s: float
    ended_s: float

    @property
    def batches(self) -> list[Sequence[Earned]]:
        """The episodes of each step's batch."""
        size = self.plan.num_episodes
        return [self.earned[place * size : (place + 1) * size] for place in range(self.num_steps)]


def reward_of(prompt: str, answers: Sequence[str]) -> float:
    """From 0 to 1, by the bytes of all answers: no two episodes earn the same unless their answers are the same."""
    return zlib.crc32("\n".join((prompt, *answers)).encode()) / 2**32


def plan_of(**changes: Any) -> RunPlan:
    """Three prompts with rewards that differ between siblings."""
    return replace(RunPlan(PROMPTS, reward_of, group_size=4, max_tokens=12), **changes)


def watch_run(system: GrpoSystem, num_steps: int, plan: RunPlan) -> WatchedRun:
    """Run ``plan`` and watch."""
    earned: list[Earned] = []
    start = time.perf_counter()
    records = system.run(num_steps, replace(plan, reward=_watched(plan.reward, earned)))
    return WatchedRun(plan, num_steps, tuple(records), earned, start, time.perf_counter())


def _watched(reward: Reward, earned: list[Earned]) -> Reward:
    def call(prompt: str, answers: Sequence[str]) -> float:
        value = reward(prompt, answers)
        earned.append(Earned(time.perf_counter(), prompt, tuple(answers), value))
        return value

    return call


@dataclass(frozen=True, slots=True)
class RepeatedSteps:
    """The same steps again and again, from a state that the system saved."""

    system: GrpoSystem
    num_steps: int
    plan: RunPlan
    state: Path

    def rewind(self) -> None:
        """Back to the state before the first step. Part of no measurement."""
        self.system.load_state(self.state)

    def run(self, **changes: Any) -> Sequence[StepRecord]:
        """The steps of the plan, or of the plan with ``changes``."""
        return self.system.run(self.num_steps, replace(self.plan, **changes))


def repeated_steps(system: GrpoSystem, num_steps: int, plan: RunPlan, state: Path) -> RepeatedSteps:
    """From the present state of ``system`` on, which is saved to ``state``."""
    state.mkdir()
    system.save_state(state)
    return RepeatedSteps(system, num_steps, plan, state)
