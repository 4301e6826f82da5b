"""Asks held-out questions: once greedily, and k times as in training."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from grpo_core.config import EnvironmentConfig, GrpoConfig
from grpo_core.config.packages import package_of
from grpo_core.environments import make_environment_factory
from grpo_core.environments.dataset.source import DatasetFactory, open_dataset
from grpo_core.environments.protocol import EnvironmentFactory
from grpo_core.errors import ConfigError
from grpo_core.evaluation.rates import Rate, rate_of
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.play.build import DescribedEngine
from grpo_core.rollout.play.collector import Collector
from grpo_core.types import Group

_STREAM = 20
"""Its random numbers are of a stream that training never draws from."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the policy after ``step`` steps did. ``pass_at_k`` is None where nothing was drawn."""

    step: int
    num_questions: int
    num_samples: int
    greedy_reward_mean: float
    greedy_passed: Rate
    pass_at_k: Rate | None
    duration_s: float

    def __str__(self) -> str:
        drawn = "" if self.pass_at_k is None else f", pass@{self.num_samples} {self.pass_at_k}"
        return (
            f"evaluation after step {self.step}: greedy reward {self.greedy_reward_mean:.3f}, passed "
            f"{self.greedy_passed}{drawn}, {self.num_questions} questions in {self.duration_s:.1f} s"
        )


class Evaluator:
    """Evaluates versions of the policy on ``engine``, always on the same questions with the same random numbers."""

    def __init__(self, config: GrpoConfig, engine: DescribedEngine, tokenizer: Tokenizer) -> None:
        """
        Raises:
            ConfigError: the held-out questions or the environment cannot be used.
        """
        settings = config.evaluation
        factory = open_held_out(config, tokenizer)
        num_questions = settings.num_questions
        if isinstance(factory, DatasetFactory):
            num_questions = min(num_questions, len(factory.rows))
        self._engine = engine
        self._settings = settings
        seed = int(np.random.SeedSequence((config.rollout.seed, _STREAM)).generate_state(1, np.uint64)[0])
        common = {"num_groups": num_questions, "max_refill_rounds": 0, "overlong_buffer_tokens": 0, "seed": seed}

        def collector(**changes: int) -> Collector:
            rollout = config.rollout.model_copy(update={**common, **changes})
            fingerprint = engine.model_fingerprint
            return Collector(
                engine, tokenizer, factory, rollout, model_fingerprint=fingerprint, want_ref_logprobs=False
            )

        self._greedy = collector(group_size=1, top_k=1)
        self._drawn = collector(group_size=settings.num_samples) if settings.num_samples > 1 else None

    def evaluate(self, version: int) -> Evaluation:
        """Ask policy ``version``. The engine goes back to the version that it had.

        Raises:
            GrpoError: as ``Collector.collect``.
        """
        before = self._engine.policy_version
        began_s = time.perf_counter()
        try:
            self._engine.use_version(version)
            greedy = self._greedy.collect(0).groups
            drawn = None if self._drawn is None else self._drawn.collect(0).groups
        finally:
            self._engine.use_version(before)
        rewards = [trajectory.reward for group in greedy for trajectory in group.trajectories]
        return Evaluation(
            step=version,
            num_questions=len(greedy),
            num_samples=self._settings.num_samples,
            greedy_reward_mean=float(np.mean(rewards)),
            greedy_passed=self._passed(greedy),
            pass_at_k=None if drawn is None else self._passed(drawn),
            duration_s=time.perf_counter() - began_s,
        )

    def _passed(self, groups: Iterable[Group]) -> Rate:
        """The share of questions to which one answer at least passes. With k answers drawn that is pass@k."""
        passed = [
            any(trajectory.reward >= self._settings.passed_at for trajectory in group.trajectories) for group in groups
        ]
        return rate_of(sum(passed), len(passed))


def open_held_out(config: GrpoConfig, tokenizer: Tokenizer | None = None) -> EnvironmentFactory:
    """The factory of what the evaluation of ``config`` plays. Raises as ``held_out_environment``, and as
    ``make_environment_factory``."""
    environment = held_out_environment(config)
    if config.evaluation.path is not None:
        return open_dataset(environment.data, "evaluation.path")
    return make_environment_factory(environment, tokenizer)


def check_held_out(config: GrpoConfig) -> EnvironmentFactory | None:
    """Before a model is loaded: raises as ``held_out_environment``, and where the questions of a file are unsound.
    Returns the data set of that file, None where the held-out questions are in no file."""
    held_out_environment(config)
    return open_held_out(config) if config.evaluation.path is not None else None


def held_out_environment(config: GrpoConfig) -> EnvironmentConfig:
    """What the evaluation of ``config`` plays.

    Raises:
        ConfigError: there are no held-out questions, or they do not go with the environment.
    """
    own, settings = config.environment, config.evaluation
    if settings.environment is not None:
        if settings.path is not None:
            raise ConfigError("evaluation.environment does not go with evaluation.path; set one of them")
        if settings.environment == "dataset":
            raise ConfigError("evaluation.environment 'dataset': name the held-out questions in evaluation.path")
        return _other_environment(own, settings.environment)
    if own.name != "dataset":
        if settings.path is not None:
            raise ConfigError(
                f"evaluation.path does not go with environment.name {own.name!r}: only questions of a data set have a "
                "path; leave it out"
            )
        holds_out = own.questions == "training" or package_of(own.name) == "reasoning_gym"
        asked = "held_out" if holds_out else own.questions
        return own.model_copy(update={"use_state_cache": False, "questions": asked})
    if settings.path is None:
        raise ConfigError("evaluation needs held-out questions: set evaluation.path to a file of them")
    data = own.data.model_copy(update={"path": settings.path, "shuffle": False})
    return own.model_copy(update={"data": data})


def _other_environment(own: EnvironmentConfig, name: str) -> EnvironmentConfig:
    """``name``, with what ``own`` says that both have."""
    values = own.model_dump(exclude=None if ":" in name else {"settings"}) | {"name": name}
    if package_of(name) != "reasoning_gym":
        return EnvironmentConfig.model_validate(values | {"data": {}})
    data = own.data.model_dump()
    if own.name == "dataset":
        data |= {"path": None, "rewards": ()}
    # It may be the task that is trained on.
    return EnvironmentConfig.model_validate(values | {"questions": "held_out", "data": data})
