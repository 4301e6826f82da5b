"""``grpo panels``: the dashboard's panels, in the terminal."""

from __future__ import annotations

import argparse

from rich.console import Console

from grpo_core.home import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="refresh until Ctrl-C")
    parser.add_argument("--interval-s", type=float, default=1.0, metavar="SECONDS", help="between two refreshes")


def run(flags: argparse.Namespace, console: Console) -> int:
    from grpo_core.telemetry.terminal import render, watch

    home = Home.from_environment()
    if flags.watch:
        watch(home, flags.interval_s, console)
    else:
        console.print(render(home))
    return 0
