"""Command-line flags and the configuration that they make."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_core.config import GrpoConfig, build_config, read_config
from grpo_core.errors import ConfigError

_FLAGS: Mapping[str, str] = {
    "model": "model.name",
    "device": "model.device",
    "environment": "environment.name",
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
}


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every command shares. What is not given keeps the configuration's own default."""
    group = parser.add_argument_group("configuration")
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file with any of the settings")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, e.g. training.kl_coefficient=0"
    )
    group.add_argument(
        "--preset", "--model", dest="model", metavar="NAME", help="tiny, small, a model folder or hub id"
    )
    group.add_argument("--device", help="auto (default), cpu or cuda")
    group.add_argument("--environment", metavar="NAME", help="arithmetic, diplomacy or package.module:factory")
    group.add_argument("--engine", metavar="NAME", help="what samples: torch (default), vllm or plain")
    group.add_argument("--steps", type=int, metavar="N", help="training steps, or batches to collect")
    group.add_argument("--groups", type=int, metavar="N", help="starting states per batch")
    group.add_argument("--samples", type=int, metavar="N", help="episodes per starting state (the group size)")
    group.add_argument("--horizon", type=int, metavar="N", help="length of an episode: years in Diplomacy")
    group.add_argument("--seed", type=int, metavar="N", help="of everything that is drawn at random")
    group.add_argument("--compact-prompts", action="store_true", default=None, help="abbreviated prompts")
    group.add_argument(
        "--use-state-cache", action="store_true", default=None, help="start from cached mid-game positions"
    )
    group.add_argument("--buffer-depth", type=int, metavar="N", help="finished batches that wait for the trainer")
    group.add_argument("--policy-lag", type=int, metavar="N", help="max_policy_lag_steps: how old a batch may be")
    group.add_argument("--learning-rate", type=float, metavar="X")


def config_from_flags(flags: argparse.Namespace, defaults: Mapping[str, Any], run: str) -> GrpoConfig:
    """``defaults`` (dotted keys), then the config file, then ``--set``, then the flags of their own; ``run`` names it.

    Raises:
        ConfigError: a bad key or value, or two that contradict each other.
    """
    values: dict[str, Any] = {}
    for key, value in defaults.items():
        _put(values, key, value)
    if flags.config is not None:
        _merge(values, read_config(flags.config))
    for setting in flags.set:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting!r}: give KEY=VALUE, e.g. training.learning_rate=1e-3")
        _put(values, key.strip(), _parse(text.strip()))
    for name, key in _FLAGS.items():
        value = vars(flags)[name]
        if value is not None:
            _put(values, key, value)
    values["run"] = run
    return build_config(values)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {section} is a value, not a section; give section.key=value")
        values = inner
    values[last] = value


def _merge(values: dict[str, Any], added: Mapping[str, Any]) -> None:
    for key, value in added.items():
        inner = values.get(key)
        if isinstance(value, Mapping) and isinstance(inner, dict):
            _merge(inner, value)
        else:
            values[key] = value


def _parse(text: str) -> Any:
    """A TOML value; what is none is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
