"""The task and result of a training run, common to both arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.checks.learning import steps_to

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Task:
    """What both arms learn. All other settings are the defaults of ``TrainingConfig``, without the KL term."""

    model: str
    num_steps: int
    num_groups: int
    group_size: int
    max_completion_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class LearningRun:
    """The mean reward of each step, before its update, the questions, and when each step ended."""

    rewards: tuple[float, ...]  # [steps]
    questions: tuple[str, ...]  # [steps * groups], in order
    seconds: tuple[float, ...]  # [steps]: since the run began, with a loaded model

    def trailing_means(self, num_steps: int) -> list[float]:
        """[steps]: over the last ``num_steps`` of them, fewer at the start."""
        return [float(np.mean(self.rewards[max(0, end - num_steps) : end])) for end in range(1, len(self.rewards) + 1)]

    def steps_to(self, reward: float, num_steps: int) -> int | None:
        """The first step with a full window of ``num_steps`` whose mean reward reaches ``reward``, else None."""
        return steps_to(self.rewards, reward, num_steps)

    def seconds_to(self, reward: float, num_steps: int) -> float:
        """Until the step of ``steps_to`` had ended; of the whole run, if the reward was never reached."""
        return self.seconds[(self.steps_to(reward, num_steps) or len(self.seconds)) - 1]


@dataclass(frozen=True, slots=True)
class Start:
    """The start of both arms: the questions, and the new adapter's weights in PEFT's layout."""

    questions: tuple[str, ...]
    weights: Mapping[str, Tensor]
