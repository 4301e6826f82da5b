"""``grpo bench``: the phases of the project's ``bench/`` folder, run by pytest."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from grpo_core.commands.measure import add_misplaced_arguments
from grpo_core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--phase", default="all", help="which phases, e.g. 2,5")
    parser.add_argument("pytest_arguments", nargs="*", metavar="-- PYTEST_ARGUMENT", help="passed on to pytest")
    add_misplaced_arguments(parser)


def run(flags: argparse.Namespace, console: Console) -> int:
    """Run them; pytest's exit code."""
    if not Path("bench").is_dir():
        raise ConfigError("grpo bench: no bench/ folder here; run it from the root of the project")
    command = [sys.executable, "-m", "pytest", "bench", "--phase", flags.phase, *flags.pytest_arguments]
    return subprocess.run(command, check=False).returncode
