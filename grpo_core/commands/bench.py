"""``grpo bench``: the phases, run by pytest: those of the project's ``bench/`` folder, or those of the package."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from grpo_core.commands.parser import add_misplaced_arguments

PACKAGED = ("--pyargs", "pytest_grpo.bench", "-o", "python_files=test_*.py")
"""pytest's arguments for the phases of the package, whatever the project calls its own test files."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--phase", default="all", help="which phases, e.g. 2,5")
    parser.add_argument("pytest_arguments", nargs="*", metavar="-- PYTEST_ARGUMENT", help="passed on to pytest")
    add_misplaced_arguments(parser)


def run(flags: argparse.Namespace, console: Console) -> int:
    """Run them; pytest's exit code."""
    tests = ["bench"] if any(Path("bench").rglob("test_*.py")) else PACKAGED
    command = [sys.executable, "-m", "pytest", *tests, "--phase", flags.phase, *flags.pytest_arguments]
    return subprocess.run(command, check=False).returncode
