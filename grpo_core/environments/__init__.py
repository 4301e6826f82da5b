"""Environments by name: ``arithmetic``, ``diplomacy``, or one of your own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

from grpo_core.config import EnvironmentConfig
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment, missing_engine
from grpo_core.environments.diplomacy.phase import PhaseCache
from grpo_core.environments.protocol import Environment, EnvironmentFactory
from grpo_core.environments.user_code import users_code
from grpo_core.errors import ConfigError

__all__ = ["ConfiguredFactory", "Environment", "EnvironmentFactory", "check_environment", "make_environment_factory"]


@dataclass(frozen=True, slots=True)
class ConfiguredFactory:
    """Calls ``make`` with ``config``."""

    config: EnvironmentConfig
    key: str
    make: Callable[[EnvironmentConfig], Environment]

    def __call__(self) -> Environment:
        """
        Raises:
            EnvironmentCodeError: ``make`` failed.
        """
        with users_code(f"environment.name {self.config.name!r}: making one", "mend it"):
            return self.make(self.config)


def check_environment(config: EnvironmentConfig) -> None:
    """Check that ``config.name`` is a built-in environment, or has the form of a factory. Nothing is imported.

    Raises:
        ConfigError: it is neither of them.
    """
    if config.name not in ("arithmetic", "diplomacy") and ":" not in config.name:
        raise ConfigError(
            f"environment.name {config.name!r} is not known; allowed: arithmetic, diplomacy, or package.module:factory"
        )


def make_environment_factory(config: EnvironmentConfig) -> EnvironmentFactory:
    """The factory of the environment that ``config.name`` names.

    Raises:
        ConfigError: no such environment, or a factory that cannot be imported, or does not take the configuration.
        EnvironmentCodeError: its module fails when it is imported.
        MissingPackageError: the environment needs a package that is not installed.
    """
    check_environment(config)
    if config.name == "arithmetic":
        key = f"arithmetic max_operand={config.max_operand} questions={config.questions}"
        return ConfiguredFactory(config, key, _make_arithmetic)
    if config.name == "diplomacy":
        return ConfiguredFactory(config, _diplomacy_key(config), partial(_make_diplomacy, PhaseCache()))
    make = _import_factory(config)
    return ConfiguredFactory(config, f"custom {config.model_dump_json()}", make)


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


def _import_factory(config: EnvironmentConfig) -> Callable[[EnvironmentConfig], Environment]:
    name = config.name
    module_name, _, attribute = name.partition(":")
    form = "give package.module:factory, of a module on the Python path"
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ConfigError(f"environment.name {name!r}: {form}")
    with users_code(f"environment.name {name!r}: importing {module_name!r}", "mend that module"):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(f"environment.name {name!r}: cannot import {module_name!r} ({error}); {form}") from error
    if attribute not in module.__dict__:
        raise ConfigError(f"environment.name {name!r}: {module_name!r} has no {attribute!r}; {form}")
    found = module.__dict__[attribute]
    if not callable(found):
        raise ConfigError(
            f"environment.name {name!r} is a {type(found).__name__}, which cannot be called; "
            "name a function that takes the EnvironmentConfig and returns an Environment"
        )
    make: Callable[[EnvironmentConfig], Environment] = module.__dict__[attribute]
    _check_takes_config(make, config)
    return make


def _check_takes_config(make: Callable[..., Environment], config: EnvironmentConfig) -> None:
    """Raises ConfigError when ``make`` cannot be called with ``config``, before any model is loaded."""
    try:
        inspect.signature(make).bind(config)
    except TypeError as error:
        raise ConfigError(
            f"environment.name {config.name!r}: it must take the EnvironmentConfig and nothing else ({error}); write "
            f"def {'__init__(self, config)' if isinstance(make, type) else f'{make.__name__}(config)'}"
        ) from error
    except ValueError:  # a builtin has no signature to look at
        return
