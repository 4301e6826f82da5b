"""The configuration keys behind the flags of ``grpo`` and of the functions of ``app.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_core.errors import ConfigError

FLAG_KEYS: Mapping[str, str] = {
    "model": "model.name",
    "device": "model.device",
    "environment": "environment.name",
    "dataset": "environment.data.path",
    "reward": "environment.data.rewards",
    "horizon": "environment.horizon",
    "compact_prompts": "environment.compact_prompts",
    "use_state_cache": "environment.use_state_cache",
    "engine": "rollout.engine",
    "groups": "rollout.num_groups",
    "samples": "rollout.group_size",
    "seed": "rollout.seed",
    "learning_rate": "training.learning_rate",
    "steps": "schedule.num_steps",
    "buffer_depth": "schedule.buffer_depth",
    "policy_lag": "schedule.max_policy_lag_steps",
    "checkpoint_every": "schedule.checkpoint_every_steps",
}


def put_flags(values: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Set the key of every flag of ``flags`` in the nested ``values``, which is returned. None leaves a key as it is.

    Raises:
        ConfigError: ``values`` has a value where a key needs a section.
    """
    for name, key in FLAG_KEYS.items():
        if flags.get(name) is not None:
            put(values, key, flags[name])
    return values


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` in the nested ``values``.

    Raises:
        ConfigError: a part of ``key`` is a value, not a section.
    """
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {section} is a value, not a section; give section.key=value")
        values = inner
    values[last] = value
