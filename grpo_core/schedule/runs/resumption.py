"""The configuration of a run that goes on: that of its checkpoint, in which some settings may be changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.config import GrpoConfig, build_config
from grpo_core.config.values import flattened, merged
from grpo_core.errors import ConfigError, shown
from grpo_core.home import Home, check_name
from grpo_core.training.checkpoint.state import newest_state

FIXED = frozenset(
    {
        "environment.name",
        "model.dtype",
        "model.lora_alpha",
        "model.lora_rank",
        "model.lora_targets",
        "training.method",
        "training.optimizer",
    }
)
"""What a run keeps. ``model.name`` may be another path to the same weights: the checkpoint knows them."""

_TABLES = ("environment.settings.",)
"""What begins like this is in no checkpoint until it is set."""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that a run goes on with, and what it had before."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.before)} -> {_shown(self.now)}"


@dataclass(frozen=True, slots=True)
class Resumption:
    """How a run goes on after ``step``. ``changes`` are settings in which ``config`` differs from the checkpoint's."""

    config: GrpoConfig
    changes: tuple[Change, ...]
    step: int

    @property
    def is_finished(self) -> bool:
        """Whether the run has done all of its steps."""
        return self.step >= self.config.schedule.num_steps


def find_resumption(
    home: Home, run: str, given: Mapping[str, Any], typed: Mapping[str, str] | None = None
) -> Resumption:
    """How ``run`` goes on from its newest checkpoint with the nested settings ``given``.

    ``typed`` has, per dotted key, the flag that gave it, for messages. Nothing is loaded but ``state.json``.

    Raises:
        InvalidNameError: ``run`` is not a safe name.
        ConfigError: there is no checkpoint, a setting is not allowed, or it contradicts what the run keeps.
    """
    typed = typed or {}
    state = newest_state(home.checkpoints / check_name(run, "run"))
    if state is None:
        raise ConfigError(_nothing_to_resume(home, run))
    stored = {key: value for key, value in state["config"].items() if key != "run"}
    _check_readable(stored, run)
    config = build_config({**merged(stored, given), "run": run}, typed)
    changes = _changes(stored, config)
    for change in changes:
        if change.key in FIXED or _is_another_preset(change):
            where = typed.get(change.key, change.key)
            raise ConfigError(
                f"{where} {_shown(change.now)}: run {run!r} has {_shown(change.before)} and keeps it; leave it out, or "
                "start another run without --resume"
            )
    num_steps = config.schedule.num_steps
    if num_steps < state["step"]:
        raise ConfigError(
            f"{typed.get('schedule.num_steps', 'schedule.num_steps')} {num_steps}: run {run!r} has done "
            f"{state['step']} steps already, and the setting counts from its start; give more than {state['step']}"
        )
    return Resumption(config, changes, state["step"])


def _check_readable(stored: Mapping[str, Any], run: str) -> None:
    """Raises ConfigError when this version does not know, or does not allow, what the checkpoint has."""
    try:
        build_config({**stored, "run": run})
    except ConfigError as error:
        raise ConfigError(
            f"the checkpoint of run {run!r} is of another version of this program ({error}); go on with that version"
        ) from error


def _changes(stored: Mapping[str, Any], config: GrpoConfig) -> tuple[Change, ...]:
    before = flattened(stored)
    now = flattened(config.model_dump(mode="json", exclude={"run"}))
    return tuple(
        Change(key, before.get(key), value)
        for key, value in now.items()
        if (key in before or key.startswith(_TABLES))  # another setting that is new has its default
        and _comparable(before.get(key)) != _comparable(value)
    )


def _comparable(value: Any) -> Any:
    """The order of a list, such as ``model.lora_targets``, does not matter."""
    return sorted(value, key=str) if isinstance(value, list) else value


def _is_another_preset(change: Change) -> bool:
    """Two presets never have the same weights."""
    from grpo_core.model.presets import PRESETS  # with torch, which no other command line waits for

    return change.key == "model.name" and {change.before, change.now} <= set(PRESETS)


def _shown(value: Any) -> str:
    return "not set" if value is None else shown(value)


def _nothing_to_resume(home: Home, run: str) -> str:
    if any((home.checkpoints / run).glob("step-*")):
        return (
            f"--resume: no checkpoint of run {run!r} in {home.checkpoints} can be read; start without --resume under "
            "another name"
        )
    runs = sorted({path.parent.name for path in home.checkpoints.glob("*/step-*")})
    return (
        f"--resume: run {run!r} has no checkpoint in {home.checkpoints}; "
        + (f"runs with one: {', '.join(runs)}; " if runs else "")
        + "correct --run, or start without --resume"
    )
