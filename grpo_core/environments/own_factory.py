"""A factory of the user's own: imported, and held against the settings that it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from grpo_core.config import EnvironmentConfig
from grpo_core.environments.protocol import Environment
from grpo_core.environments.user_code import import_own
from grpo_core.errors import ConfigError


def import_factory(config: EnvironmentConfig) -> Callable[..., Environment]:
    """What ``config.name`` names.

    Raises:
        ConfigError: it cannot be imported, or cannot be called.
        EnvironmentCodeError: its module fails when it is imported.
    """
    found: Any = import_own(
        "environment.name", config.name, "give package.module:factory, of a module on the Python path"
    )
    if not callable(found):
        raise ConfigError(
            f"environment.name {config.name!r} is of type {type(found).__name__}, which cannot be called; "
            "name a function that takes the EnvironmentConfig and returns an Environment"
        )
    return cast("Callable[..., Environment]", found)


def takes_tokenizer(make: Callable[..., Environment], config: EnvironmentConfig) -> bool:
    """Raises ConfigError when a setting has that name."""
    if "tokenizer" in config.settings:
        raise ConfigError("environment.settings.tokenizer: the run's tokenizer has that name; choose another one")
    try:
        return "tokenizer" in inspect.signature(make).parameters
    except ValueError:  # a builtin has no signature to look at
        return False


def check_takes(make: Callable[..., Environment], config: EnvironmentConfig, arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError when ``make`` cannot be called as the factory does, before any model is loaded."""
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except ValueError:
        return
    _check_settings(config, parameters[1:])  # the first is the configuration
    try:
        inspect.signature(make).bind(config, **arguments)
    except TypeError as error:
        names = ", ".join(["config", *arguments])
        raise ConfigError(
            f"environment.name {config.name!r}: it must take the EnvironmentConfig first ({error}); write "
            f"def {f'__init__(self, {names})' if isinstance(make, type) else f'{make.__name__}({names})'}"
        ) from error


def _check_settings(config: EnvironmentConfig, parameters: list[inspect.Parameter]) -> None:
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    names = [each.name for each in named if each.name != "tokenizer"]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    unknown = next((name for name in config.settings if name not in names), None)
    if parameters and unknown is not None and not takes_any:
        raise ConfigError(
            f"environment.settings.{unknown}: environment.name {config.name!r} has no such setting; it has "
            f"{', '.join(names) or 'none'}"
        )
    for each in named:
        if each.default is each.empty and each.name not in (*config.settings, "tokenizer"):
            raise ConfigError(
                f"environment.settings.{each.name}: environment.name {config.name!r} needs it, and it is not set; add "
                f"--set environment.settings.{each.name}=..., or give the argument a default"
            )
