"""``grpo wandb push``: stored verdicts and their HTML page in Weights & Biases."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console

from grpo_core.errors import CredentialsError
from grpo_core.home import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["push"], help="write the run of the baseline, or bring it up to date")
    parser.add_argument("name", metavar="NAME", help="of the baseline: what --grpo-save said")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page of --grpo-html to go with it (default: none)")


def run(flags: argparse.Namespace, console: Console) -> int:
    from grpo_core.config import TelemetryConfig
    from grpo_core.telemetry.wandb_report import push_report
    from grpo_core.telemetry.wandb_sink import choose_mode, project_of

    mode = choose_mode(TelemetryConfig(), os.environ)
    if mode is None:
        raise CredentialsError("W&B is off: set WANDB_API_KEY, or WANDB_MODE=offline and then run wandb sync")
    folder = push_report(Home.from_environment(), flags.name, flags.html, mode, project_of(os.environ))
    what = f"send it with: wandb sync {folder}" if mode == "offline" else f"its files are in {folder}"
    console.print(f"verdicts of {flags.name}: {what}", soft_wrap=True, markup=False)
    return 0
