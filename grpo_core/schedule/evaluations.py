"""Evaluations while a run trains: in the rollout thread, between two batches, where the engine is free."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from grpo_core.errors import ConfigError, HomeError
from grpo_core.evaluation.evaluator import Evaluation, Evaluator
from grpo_core.home import parse_json, write_folder, write_json
from grpo_core.schedule.stack import LocalStack, Stack
from grpo_core.telemetry.events import Telemetry
from grpo_core.training.checkpoint.random_state import capture_random_state, restore_random_state
from grpo_core.training.checkpoint.state import folder_name
from grpo_core.types import PolicyVersion

logger = logging.getLogger(__name__)

OnEvaluation = Callable[[Evaluation], None]
BEST = "best"
"""The folder with the best checkpoint, among the run's checkpoints."""


class Evaluations:
    """Evaluates the policy every ``evaluation.every_steps`` steps, and keeps the checkpoint of the best one.

    The best has the largest mean reward of the greedy answers; of equal ones the first.
    """

    def __init__(self, stack: Stack, telemetry: Telemetry, on_evaluation: OnEvaluation | None) -> None:
        """
        Raises:
            ConfigError: as ``Evaluator``, or the run's engines are elsewhere.
        """
        if not isinstance(stack, LocalStack):
            raise ConfigError("evaluation.every_steps: remote workers do not evaluate; set it to 0")
        self._evaluator = Evaluator(stack.config, stack.engine, stack.tokenizer)
        self._every_steps = stack.config.evaluation.every_steps
        self._telemetry = telemetry
        self._on_evaluation = on_evaluation
        self._store, self._run_name = stack.store, stack.config.run
        self._folder = stack.checkpoint_folder
        self._last = -1
        self._best_score = _stored_score(self._folder / BEST)
        self._unkept: Evaluation | None = None  # the best one, while its checkpoint is not kept

    def run_due(self, version: int) -> None:
        """Evaluate the versions up to ``version`` that are due and were not evaluated yet: with policy lag there may be
        several since the last batch, all of them still published. Raises as ``evaluate``."""
        first = self._last + 1 if self._last >= 0 else self._first_due(version)
        for due in range(first, version + 1):
            if due % self._every_steps == 0:
                self._run(due)

    def _first_due(self, version: int) -> int:
        """Where a new process begins: at the newest version that is due, which the process before may not have
        evaluated, or at ``version`` if that one was pruned."""
        due = version // self._every_steps * self._every_steps
        is_there = due == 0 or self._store.stamp_of(PolicyVersion(self._run_name, due)) is not None
        return due if is_there else version

    def run_last(self, version: int) -> None:
        """The same with ``version``, the last one, whether it is due or not."""
        self.run_due(version)
        if version > self._last:
            self._run(version)

    def _run(self, version: int) -> None:
        state = capture_random_state()  # an environment of one's own may draw from the process's generators
        try:
            found = self._evaluator.evaluate(version)
        finally:
            restore_random_state(state)
        self._last = version
        rates = {"greedy_passed": found.greedy_passed, "pass_at_k": found.pass_at_k}
        self._telemetry.emit(
            "evaluation",
            step=version,
            num_questions=found.num_questions,
            num_samples=found.num_samples,
            greedy_reward_mean=found.greedy_reward_mean,
            **{name: None if rate is None else rate.value for name, rate in rates.items()},
            **{f"{name}_low": None if rate is None else rate.low for name, rate in rates.items()},
            **{f"{name}_high": None if rate is None else rate.high for name, rate in rates.items()},
            evaluation_s=found.duration_s,
        )
        if version > 0 and (self._best_score is None or found.greedy_reward_mean > self._best_score):
            self._best_score, self._unkept = found.greedy_reward_mean, found
        if self._on_evaluation is not None:
            self._on_evaluation(found)

    def keep_best(self) -> None:
        """In the trainer's thread: keep the checkpoint of the best policy, once both are there.

        Raises:
            HomeError: it cannot be written.
        """
        best = self._unkept
        if best is None:
            return
        self._unkept = None
        source = self._folder / folder_name(best.step)
        if not source.is_dir():
            logger.warning("the checkpoint of step %d, the best so far, is gone; the next best one is kept", best.step)
            return
        try:
            with write_folder(self._folder / BEST) as folder:
                _link(source, folder / source.name)
                write_json(folder / "evaluation.json", {"step": best.step, "score": best.greedy_reward_mean})
        except OSError as error:
            raise HomeError(f"cannot keep {source} as the best one: {error.strerror}; free space for it") from error


def _link(source: Path, target: Path) -> None:
    """The folder ``source`` again as ``target``, without a copy: nobody changes the files of a checkpoint."""
    target.mkdir()
    for file in source.iterdir():
        os.link(file, target / file.name)


def _stored_score(folder: Path) -> float | None:
    try:
        return float(parse_json((folder / "evaluation.json").read_bytes())["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
