"""``grpo wandb``: what Weights & Biases shows beside runs: stored verdicts, and a view of a project's charts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console

from grpo_core.errors import ConfigError, CredentialsError
from grpo_core.home import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=["push", "view"],
        help="push: write the run of the baseline, or bring it up to date; view: save a view of the charts of "
        "WANDB_PROJECT, or bring it up to date",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="of the baseline to push, as given to --grpo-save")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page of --grpo-html to go with it (default: none)")
    parser.add_argument("--entity", help="team or user whose project the view is for (default: WANDB_ENTITY, or yours)")


def run(flags: argparse.Namespace, console: Console) -> int:
    if flags.action == "view":
        return _view(flags, console)
    if flags.entity is not None:
        raise ConfigError("--entity is for: grpo wandb view; for a push set WANDB_ENTITY")
    if flags.name is None:
        raise ConfigError("grpo wandb push needs a NAME, as given to --grpo-save")
    return _push(flags, console)


def _push(flags: argparse.Namespace, console: Console) -> int:
    from grpo_core.config import TelemetryConfig
    from grpo_core.telemetry.wandb.connection import choose_mode, project_of
    from grpo_core.telemetry.wandb.report import push_report

    mode = choose_mode(TelemetryConfig(), os.environ)
    if mode is None:
        raise CredentialsError("W&B is off: set WANDB_API_KEY, or WANDB_MODE=offline and then run wandb sync")
    folder = push_report(Home.from_environment(), flags.name, flags.html, mode, project_of(os.environ))
    what = f"send it with: wandb sync {folder}" if mode == "offline" else f"its files are in {folder}"
    console.print(f"verdicts of {flags.name}: {what}", soft_wrap=True, markup=False)
    return 0


def _view(flags: argparse.Namespace, console: Console) -> int:
    from grpo_core.config import TelemetryConfig
    from grpo_core.telemetry.wandb.connection import choose_mode, project_of
    from grpo_core.telemetry.wandb.view import save_view

    if flags.name is not None or flags.html is not None:
        raise ConfigError("NAME and --html are for: grpo wandb push")
    if choose_mode(TelemetryConfig(), os.environ) != "online":
        raise CredentialsError("a view is saved at W&B: set WANDB_API_KEY, and leave WANDB_MODE at online")
    project = project_of(os.environ)
    url = save_view(Home.from_environment(), flags.entity or os.environ.get("WANDB_ENTITY"), project)
    console.print(f"view of {project}: {url}", soft_wrap=True, markup=False)
    return 0
