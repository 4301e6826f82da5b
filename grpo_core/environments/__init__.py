"""Environments by name: ``arithmetic``, ``diplomacy``, those of other packages, or one of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from grpo_core.config import EnvironmentConfig
from grpo_core.config.packages import package_of
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.environments.dataset.source import open_dataset
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment, missing_engine
from grpo_core.environments.diplomacy.phase import PhaseCache
from grpo_core.environments.own_factory import check_takes, import_factory, takes_tokenizer
from grpo_core.environments.protocol import Environment, EnvironmentFactory
from grpo_core.environments.reasoning_gym.task import open_task
from grpo_core.environments.user_code import users_code
from grpo_core.environments.verifiers.source import open_verifiers
from grpo_core.errors import ConfigError

__all__ = ["ConfiguredFactory", "Environment", "EnvironmentFactory", "check_environment", "make_environment_factory"]


@dataclass(frozen=True, slots=True)
class ConfiguredFactory:
    """Calls ``make`` with ``config`` and ``arguments``."""

    config: EnvironmentConfig
    key: str
    make: Callable[..., Environment]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The environment's, as the configuration has it."""
        return self.config.name

    def __call__(self) -> Environment:
        """
        Raises:
            EnvironmentCodeError: ``make`` failed.
        """
        with users_code(f"environment.name {self.config.name!r}: making one", "fix it"):
            return self.make(self.config, **self.arguments)


def check_environment(config: EnvironmentConfig) -> None:
    """Check that ``config.name`` is a built-in environment, or has the form of a factory. Nothing is imported.

    Raises:
        ConfigError: it is neither of them.
    """
    if config.name not in ("arithmetic", "dataset", "diplomacy") and ":" not in config.name:
        raise ConfigError(
            f"environment.name {config.name!r} is not known; allowed: arithmetic, dataset, diplomacy, "
            "reasoning_gym:TASK, verifiers:NAME, or package.module:factory"
        )


def make_environment_factory(config: EnvironmentConfig, tokenizer: object = None) -> EnvironmentFactory:
    """The factory of the environment that ``config.name`` names.

    One of your own is called with the configuration, with each of ``config.settings`` as an argument of its name, and
    with ``tokenizer``, the run's, if it has an argument of that name.

    Raises:
        ConfigError: no such environment, or a factory that cannot be imported, or does not take the configuration.
        EnvironmentCodeError: its module fails when it is imported.
        MissingPackageError: the environment needs a package that is not installed.
    """
    check_environment(config)
    if config.settings and ":" not in config.name:
        raise ConfigError(
            f"environment.settings.{next(iter(config.settings))}: environment.name {config.name!r} has no settings of "
            "its own; leave it out"
        )
    if config.name == "arithmetic":
        key = f"arithmetic max_operand={config.max_operand} questions={config.questions}"
        return ConfiguredFactory(config, key, _make_arithmetic)
    if config.name == "dataset":
        return open_dataset(config.data)
    if config.name == "diplomacy":
        return ConfiguredFactory(config, _diplomacy_key(config), partial(_make_diplomacy, PhaseCache()))
    if package_of(config.name) == "reasoning_gym":
        return open_task(config)
    if package_of(config.name) == "verifiers":
        return open_verifiers(config)
    make = import_factory(config)
    arguments = config.settings | ({"tokenizer": tokenizer} if takes_tokenizer(make, config) else {})
    check_takes(make, config, arguments)
    return ConfiguredFactory(config, f"custom {config.model_dump_json()}", make, arguments)


def _make_arithmetic(config: EnvironmentConfig) -> Environment:
    return ArithmeticEnvironment(max_operand=config.max_operand, questions=config.questions)


def _make_diplomacy(phases: PhaseCache, config: EnvironmentConfig) -> Environment:
    return DiplomacyEnvironment(
        horizon=config.horizon,
        opening_years=config.effective_opening_years,
        compact_prompts=config.compact_prompts,
        phases=phases,
    )


def _diplomacy_key(config: EnvironmentConfig) -> str:
    if find_spec("diplomacy") is None:
        raise missing_engine()
    prompts = "compact" if config.compact_prompts else "full"  # what the policy read while it played the opening
    return f"diplomacy engine={version('diplomacy')} opening_years={config.effective_opening_years} prompts={prompts}"
