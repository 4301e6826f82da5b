"""A checkpoint that a command line names: ``RUN``, with ``--step N`` or ``--best``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from grpo_core.config import GrpoConfig, build_config
from grpo_core.config.flags import put
from grpo_core.config.values import merged, parse_setting
from grpo_core.errors import CheckpointError, ConfigError, first_line
from grpo_core.home import Home, check_name
from grpo_core.training.checkpoint.state import checkpoints_in, read_state


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """The folder of a checkpoint, its step, and the configuration that it was trained with."""

    path: Path
    step: int
    config: GrpoConfig


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, is_needed: bool = True) -> None:
    help_text = "a run, as grpo runs lists it"
    parser.add_argument("run_name", metavar="RUN", nargs=None if is_needed else "?", help=help_text)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="N", help="the checkpoint of this step (default: the newest one)")
    which.add_argument("--best", action="store_true", help="the best one, by evaluation.every_steps")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="another value of a setting"
    )


def stored_checkpoint(flags: argparse.Namespace) -> StoredCheckpoint:
    """What ``flags`` name.

    Raises:
        ConfigError: there is no such run or step, or a setting is not allowed.
        CheckpointError: it is damaged.
    """
    home, run = Home.from_environment(), check_name(flags.run_name, "run")
    folder = home.checkpoints / run
    paths = checkpoints_in(folder / "best" if flags.best else folder)
    path = _chosen(paths, flags, home, run)
    try:
        state = read_state(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged ({first_line(error)}); name another --step") from error
    values = {}
    for setting in flags.changes:
        put(values, *parse_setting("--set", setting))
    return StoredCheckpoint(path, state["step"], build_config({**merged(state["config"], values), "run": run}))


def _chosen(paths: list[Path], flags: argparse.Namespace, home: Home, run: str) -> Path:
    steps = {int(path.name.partition("-")[2]): path for path in paths}
    if not steps:
        runs = sorted({path.parent.name for path in home.checkpoints.glob("*/step-*")})
        best = "no best checkpoint, which evaluation.every_steps keeps" if flags.best else "no checkpoint"
        raise ConfigError(f"run {run!r} has {best}; runs with checkpoints: {', '.join(runs) or 'none'}")
    if flags.step is not None and flags.step not in steps:
        raise ConfigError(
            f"--step {flags.step}: run {run!r} has checkpoints of {', '.join(map(str, steps))}; name "
            "one of these (schedule.keep_checkpoints says how many stay)"
        )
    return steps[max(steps) if flags.step is None else flags.step]
