"""``grpo config``: the configuration in effect, with where each value came from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from grpo_core.commands.command_line.options import Given, add_config_flags, full_config, given_settings
from grpo_core.commands.train import TRAIN_DEFAULTS
from grpo_core.config import GrpoConfig, build_config, read_config
from grpo_core.config.flags import put
from grpo_core.config.values import flattened, merged, parse_setting, toml_text
from grpo_core.errors import ConfigError
from grpo_core.home import Home, check_name
from grpo_core.training.checkpoint.state import newest_state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", nargs="?", metavar="RUN", help="a run with a checkpoint: what it is trained with")
    add_config_flags(parser, TRAIN_DEFAULTS)


def run(flags: argparse.Namespace, console: Console) -> int:
    """Print it as TOML that ``--config`` takes. Nothing is loaded, and nothing changes."""
    given = given_settings(flags)
    if flags.run_name is None:
        config = full_config(given, TRAIN_DEFAULTS, str(given.values.get("run", "run")))
        before = dict.fromkeys(TRAIN_DEFAULTS, "grpo train")
    else:
        stored, step = _stored(flags.run_name)
        config = build_config({**merged(stored, given.values), "run": flags.run_name}, given.typed)
        before = dict.fromkeys(flattened(stored), f"checkpoint of step {step}")
    origins = before | _origins(flags, given)
    if "run" in given.values:
        console.print(
            f"run = {toml_text(config.run)}  # {origins.get('run', '--run')}", highlight=False, soft_wrap=True
        )
    for line in _lines(config, origins):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _stored(run: str) -> tuple[dict[str, Any], int]:
    home = Home.from_environment()
    state = newest_state(home.checkpoints / check_name(run, "run"))
    if state is None:
        runs = sorted({path.parent.name for path in home.checkpoints.glob("*/step-*")})
        raise ConfigError(f"run {run!r} has no checkpoint; runs with one: {', '.join(runs) or 'none'}")
    return state["config"], state["step"]


def _origins(flags: argparse.Namespace, given: Given) -> dict[str, str]:
    """The place that wins, for each dotted key that the command line gives."""
    file = {} if flags.config is None else flattened(read_config(flags.config))
    settings: dict[str, Any] = {}
    for setting in flags.set:
        put(settings, *parse_setting("--set", setting))
    found = dict.fromkeys(file, str(flags.config)) | dict.fromkeys(flattened(settings), "--set") | given.typed
    if "environment.data.path" in found and "environment.name" not in found:
        found["environment.name"] = found["environment.data.path"]
    return found


def _lines(config: GrpoConfig, origins: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for section, values in config.model_dump(mode="json", exclude={"run"}).items():
        lines += _section(section, values, origins)
    return lines


def _section(section: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    """A table, then those in it."""
    rows: list[tuple[str, str]] = []
    inner: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            inner += _section(f"{section}.{key}", value, origins) if value else []
            continue
        text = f"# {key} is not set" if value is None else f"{key} = {toml_text(value)}"
        rows.append((text, origins.get(f"{section}.{key}", "default")))
    width = max((len(text) for text, _ in rows if len(text) <= 60), default=0)
    return [f"[{section}]", *(f"{text:<{width}}  # {origin}" for text, origin in rows), "", *inner]
