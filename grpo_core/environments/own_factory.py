"""A factory of the user's own: imported, and held against the settings that it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from grpo_core.config import EnvironmentConfig
from grpo_core.environments.protocol import Environment
from grpo_core.environments.user_code import import_own
from grpo_core.errors import ConfigError

_BY_PLACE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


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
        signature = inspect.signature(make)
    except ValueError:
        return
    parameters = list(signature.parameters.values())
    own = f"environment.name {config.name!r}"
    takes_config_first = bool(parameters) and parameters[0].kind in _BY_PLACE and "config" not in _names(parameters[1:])
    if takes_config_first:
        _check_settings(config, parameters[1:], own)
    try:
        signature.bind(config, **arguments)
    except TypeError as error:
        raise ConfigError(f"{own}: {_advice(make, config, arguments)} ({error})") from error
    if not takes_config_first:
        raise ConfigError(f"{own}: {_advice(make, config, arguments)}")


def _advice(make: Callable[..., Environment], config: EnvironmentConfig, arguments: Mapping[str, Any]) -> str:
    names = ", ".join(["config", *arguments])
    written = f"__init__(self, {names})" if isinstance(make, type) else f"{config.name.rpartition(':')[2]}({names})"
    return f"it must take the EnvironmentConfig first; write def {written}"


def _check_settings(config: EnvironmentConfig, parameters: list[inspect.Parameter], own: str) -> None:
    """``parameters`` are those behind the configuration."""
    names = [name for name in _names(parameters) if name != "tokenizer"]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    unknown = next((name for name in config.settings if name not in names), None)
    if unknown is not None and not takes_any:
        has = f"has no such setting; it has {', '.join(names)}" if names else "has no settings; leave it out"
        raise ConfigError(f"environment.settings.{unknown}: {own} {has}")
    for each in parameters:
        if each.name in names and each.default is each.empty and each.name not in config.settings:
            raise ConfigError(
                f"environment.settings.{each.name}: {own} needs it, and it is not set; add "
                f"--set environment.settings.{each.name}=..., or give the argument a default"
            )


def _names(parameters: list[inspect.Parameter]) -> list[str]:
    """Of those that a setting can name."""
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
