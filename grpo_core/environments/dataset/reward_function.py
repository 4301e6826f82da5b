"""A reward function of one's own, in TRL's signature: what it is called with, and what it may return."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.config import DataConfig
from grpo_core.environments.dataset.mathematics import check_math_verify, math_verify
from grpo_core.environments.user_code import import_own
from grpo_core.errors import ConfigError

_KEY = "environment.data.rewards"
_FORM = (
    "give module:function, or module:function=WEIGHT, of a module in the working folder or on the Python path, or "
    "math_verify"
)
_OWN_BATCHED = ("prompts", "completions", "completion_ids")
_OWN_SINGLE = ("prompt", "completion", "completion_ids")


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion, and the row that it answers. ``prompt`` and ``completion`` are texts, or lists of messages."""

    row: int  # counted from 1
    prompt: Any
    completion: Any
    completion_ids: list[int]
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """``call`` is the user's. Batched it takes lists, one item an answer, else one answer.

    ``accepted`` are the names that it takes, None for all.
    """

    name: str
    weight: float
    call: Callable[..., Any]
    is_async: bool
    is_batched: bool
    accepted: frozenset[str] | None

    def arguments(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What a batched function is called with: ``prompts, completions, completion_ids, **columns``."""
        columns = {
            name: [answer.columns[name] for answer in answers]
            for name in answers[0].columns
            if name not in _OWN_BATCHED
        }
        own = {
            "prompts": [answer.prompt for answer in answers],
            "completions": [answer.completion for answer in answers],
            "completion_ids": [answer.completion_ids for answer in answers],
        }
        taken = self._accepted(columns | own)
        return {name: [_copied(name, value) for value in values] for name, values in taken.items()}

    def single_arguments(self, answer: Answer) -> dict[str, Any]:
        """What another one is called with: ``prompt, completion, completion_ids, **columns``."""
        own = {"prompt": answer.prompt, "completion": answer.completion, "completion_ids": answer.completion_ids}
        return {name: _copied(name, value) for name, value in self._accepted({**answer.columns, **own}).items()}

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.accepted is None:
            return arguments
        return {name: value for name, value in arguments.items() if name in self.accepted}


def load_rewards(
    config: DataConfig, columns: Iterable[str], taken: Iterable[str] = (), *, source: str = "the task"
) -> tuple[RewardFunction, ...]:
    """The functions of ``config.rewards`` for the data set ``source`` with ``columns``. ``taken`` are names of other
    functions.

    Raises:
        ConfigError: one cannot be imported or called, takes what is no column, or a weight is no number.
        MissingPackageError: ``math_verify`` without its package.
        EnvironmentCodeError: its module fails when it is imported.
    """
    offered = set(columns) - {config.prompt_column}
    functions = tuple(_load(spec, offered, source) for spec in config.rewards)
    names = [*taken, *(function.name for function in functions)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{_KEY}: two functions are called {twice!r}, which names them in events; rename one")
    return functions


def _copied(name: str, value: Any) -> Any:
    """A function may change what it gets, and the row is read again: by other functions, and in the next epoch."""
    if name == "completion_ids":
        return list(value)  # it holds numbers only: a deep copy takes a second for a batch of long answers
    return copy.deepcopy(value) if isinstance(value, list | dict) else value


def _load(spec: str, columns: set[str], source: str) -> RewardFunction:
    path, is_weighted, weight = spec.partition("=")
    found = _found(path.strip())
    if not callable(found):
        raise ConfigError(f"{_KEY} {spec!r} is of type {type(found).__name__}, which cannot be called; name a function")
    try:
        parameters = inspect.signature(found).parameters.values()
    except ValueError:  # a function in C may have none
        raise ConfigError(f"{_KEY} {spec!r} has no signature that Python can read; wrap it in a function") from None
    by_place = next((one.name for one in parameters if one.kind == one.POSITIONAL_ONLY), None)
    if by_place is not None:
        raise ConfigError(
            f"{_KEY} {spec!r} has the positional-only parameter {by_place!r}, and is called with keywords; remove the /"
        )
    named = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    takes_all = any(one.kind == one.VAR_KEYWORD for one in parameters)
    is_batched = "completion" not in named
    known = columns | set(_OWN_BATCHED if is_batched else _OWN_SINGLE)
    missing = sorted(one.name for one in parameters if one.name in named - known and one.default is one.empty)
    if missing:
        raise ConfigError(
            f"{_KEY} {spec!r} takes {missing[0]!r}, which is no column of {source}: "
            f"{', '.join(sorted(columns)) or 'none'}; rename the one or the other, or give the parameter a default"
        )
    is_async = inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(type(found).__call__)
    return RewardFunction(
        name=path.strip().rpartition(":")[2],
        weight=_weight(spec, weight) if is_weighted else 1.0,
        call=found,
        is_async=is_async,
        is_batched=is_batched,
        accepted=None if takes_all else frozenset(named),
    )


def _found(path: str) -> Any:
    if path == math_verify.__name__:
        check_math_verify()
        return math_verify
    return import_own(_KEY, path, _FORM)


def _weight(spec: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ConfigError(f"{_KEY} {spec!r}: the weight {text!r} is no finite number; {_FORM}")
    return weight
