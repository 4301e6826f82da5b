"""The learning rate by step: a rise, then one of three courses to the end of the run.

A function of the step's number alone, so a resumed run has the rate of the step that it repeats.
"""

from __future__ import annotations

import math

from grpo_core.config import TrainingConfig
from grpo_core.errors import ConfigError


class LearningRateSchedule:
    """The share of the learning rate that each step has.

    Step k of W warm-up steps has k / W, so that none has 0. Of the N - W steps after them the first has the whole rate,
    and j steps on it is 1 - j / (N - W) for ``linear`` and (1 + cos(pi j / (N - W))) / 2 for ``cosine`` (Loshchilov and
    Hutter 2017, "SGDR", equation 5, without restarts).
    """

    def __init__(self, config: TrainingConfig, num_steps: int | None) -> None:
        """``num_steps`` is N.

        Raises:
            ConfigError: it is None, and the rate falls until then.
        """
        self._course = config.learning_rate_schedule
        if self._course != "constant" and num_steps is None:
            raise ConfigError(
                f"training.learning_rate_schedule {self._course!r}: to which step? give the trainer num_steps"
            )
        self._num_warmup = config.warmup_steps
        self._num_falling = (num_steps or 0) - config.warmup_steps

    def share(self, index: int) -> float:
        """0 to 1, of the step after ``index`` others."""
        if index < self._num_warmup:
            return (index + 1) / self._num_warmup
        done = min((index - self._num_warmup) / self._num_falling, 1.0) if self._num_falling > 0 else 1.0
        if self._course == "constant":
            return 1.0
        return 1.0 - done if self._course == "linear" else (1.0 + math.cos(math.pi * done)) / 2
