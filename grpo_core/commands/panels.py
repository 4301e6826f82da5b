"""``grpo panels``: the dashboard's panels, in the terminal."""

from __future__ import annotations

import argparse

from rich.console import Console

from grpo_core.errors import ConfigError
from grpo_core.home import Home

_MIN_INTERVAL_S, _MAX_INTERVAL_S = 0.05, 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="refresh until q or Ctrl-C; the arrow keys scroll")
    parser.add_argument("--interval-s", type=float, default=1.0, metavar="SECONDS", help="between two refreshes")
    parser.add_argument("--run", metavar="NAME", help="the run to show (default: the one with the newest events)")


def run(flags: argparse.Namespace, console: Console) -> int:
    from grpo_core.telemetry.panels.terminal import render
    from grpo_core.telemetry.panels.watch import watch

    if not _MIN_INTERVAL_S <= flags.interval_s <= _MAX_INTERVAL_S:
        raise ConfigError(f"--interval-s {flags.interval_s:g}: give {_MIN_INTERVAL_S:g} to {_MAX_INTERVAL_S:g}")
    home = Home.from_environment()
    if flags.watch:
        watch(home, flags.interval_s, console, flags.run)
    else:
        console.print(render(home, flags.run))
    return 0
