"""One task of reasoning-gym as a data set: its questions are rows, and its own score is their reward."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from grpo_core.config import EnvironmentConfig
from grpo_core.environments.dataset.reward_function import RewardFunction, load_rewards
from grpo_core.environments.dataset.rewards import Rewards
from grpo_core.environments.dataset.rows import Rows
from grpo_core.environments.dataset.source import DatasetFactory
from grpo_core.environments.reasoning_gym.questions import COLUMNS, HeldOutQuestions, Questions, drawing_from
from grpo_core.environments.reasoning_gym.score import Score
from grpo_core.environments.user_code import described
from grpo_core.errors import ConfigError, MissingPackageError
from grpo_core.extras import install_command

DEFAULT_SEED = 0
"""Without a seed the package draws one, and a resumed run would have other questions."""
HASH_ORDERED = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
)
"""Tasks of reasoning-gym 0.1.25 that go through a set of texts, in an order that each process draws anew."""
MAX_NAMES = 3


def open_task(config: EnvironmentConfig) -> DatasetFactory:
    """The task that ``config.name`` names, made with ``config.settings``.

    Its questions are those of ``reasoning_gym.create_dataset``, in an order as that of rows. With
    ``config.questions`` "held_out" they are others.

    Raises:
        MissingPackageError: reasoning-gym is not installed.
        ConfigError: it has no such task, or the task no such setting; or a reward cannot be used.
        EnvironmentCodeError: a module of reward functions fails when it is imported.
    """
    if find_spec("reasoning_gym") is None:
        raise MissingPackageError(
            f"environment.name {config.name!r} needs the package reasoning-gym; run: {install_command('reasoning-gym')}"
        )
    name = config.name.partition(":")[2]
    settings = {"seed": DEFAULT_SEED, **config.settings}
    task = _make(name, settings)
    is_held_out = config.questions == "held_out"
    values = questions = Questions(task)
    if is_held_out:
        values = HeldOutQuestions(questions, Questions(_make(name, settings | {"seed": task.seed + task.size})))
    shuffle = config.data.shuffle and not is_held_out  # the first ones of those suffice
    data = config.data.model_copy(update={"prompt_column": "prompt", "tools_column": None, "shuffle": shuffle})
    own = RewardFunction(
        name="score_answer",
        weight=1.0,
        call=Score(config.name, task.score_answer, data.answer_tag),
        is_async=False,
        is_batched=True,
        accepted=frozenset(("completions", "entry")),
    )
    rewards = Rewards((own, *load_rewards(data, COLUMNS, (own.name,))), data.reward_timeout_s)
    return DatasetFactory(data, Rows(config.name, COLUMNS, values), rewards)


def _make(name: str, settings: Mapping[str, Any]) -> Any:
    """The package's own data set.

    Raises:
        ConfigError: the package has no such task, or does not take these settings.
    """
    factory: Any = import_module("reasoning_gym.factory")
    import_module("reasoning_gym")  # registers the tasks
    if name not in factory.DATASETS:
        raise ConfigError(
            f"environment.name 'reasoning_gym:{name}': no such task; {_near(name, factory.DATASETS)} "
            f"(of {len(factory.DATASETS)})"
        )
    if name in HASH_ORDERED and sys.flags.hash_randomization:
        raise ConfigError(
            f"environment.name 'reasoning_gym:{name}': its questions depend on the order of Python's sets, so a "
            "resumed run would have others; set PYTHONHASHSEED=0 before the command"
        )
    fields = {field.name for field in dataclasses.fields(factory.DATASETS[name][1])}
    unknown = next((key for key in settings if key not in fields), None)
    if unknown is not None:
        raise ConfigError(
            f"environment.settings.{unknown}: 'reasoning_gym:{name}' has no such setting; it has "
            f"{', '.join(sorted(fields))}"
        )
    try:
        with drawing_from(f"{name} {settings}"):
            task = factory.create_dataset(name, **_typed(name, settings))
    except (AssertionError, TypeError, ValueError) as error:  # how its tasks refuse a setting
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise ConfigError(
            f"environment.settings of 'reasoning_gym:{name}' ({given}) are refused: {described(error)}; change them"
        ) from error
    if len(task) < 1:
        raise ConfigError(f"environment.settings.size {len(task)}: no questions; give at least 1")
    return task


def _typed(name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """``settings`` with the parts of a composite task as the package wants them: ``name``, ``weight``, ``config``."""
    if name != "composite" or "datasets" not in settings:
        return settings
    composite: Any = import_module("reasoning_gym.composite")
    for part in settings["datasets"]:
        _make(part["name"], part.get("config", {}))  # says what is wrong with it
    parts = [composite.DatasetSpec(**{"weight": 1.0, "config": {}, **part}) for part in settings["datasets"]]
    return {**settings, "datasets": parts}


def _near(name: str, known: Iterable[str]) -> str:
    """What to write instead of ``name``."""
    alike = difflib.get_close_matches(name, known, MAX_NAMES, 0.5)
    return f"near it: {', '.join(alike)}" if alike else f"such as {', '.join(sorted(known)[:MAX_NAMES])}"
