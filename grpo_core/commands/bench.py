"""``grpo bench``: the phases, run by pytest: those of the project's ``bench/`` folder, or those of the package."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from grpo_core.commands.command_line.parser import add_misplaced_arguments
from grpo_core.commands.pytest_programs import become

PACKAGED = ("--pyargs", "pytest_grpo.bench", "-o", "python_files=test_*.py")
"""pytest's arguments for the phases of the package, whatever the project calls its own test files."""
RUN_FLAGS = ("config", "model", "environment", "engine")
"""Flags of ``grpo train`` that name a run. pytest has each as ``--grpo-NAME``, and ``--set`` as ``--grpo-set``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--phase", default="all", help="which phases, e.g. 2,5")
    group = parser.add_argument_group("the run that they judge, as grpo train takes it (default: the embedded model)")
    add = group.add_argument
    add("--config", type=Path, metavar="FILE", help="TOML file with any of the settings")
    add("--preset", "--model", dest="model", metavar="NAME", help="tiny, small, a model folder or hub id")
    add(
        "--environment",
        metavar="NAME",
        help="arithmetic, diplomacy, reasoning_gym:TASK, verifiers:NAME or package.module:factory",
    )
    add("--engine", metavar="NAME", help="rollout engine: torch, vllm or plain")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, e.g. rollout.group_size=4")
    parser.add_argument("pytest_arguments", nargs="*", metavar="-- PYTEST_ARGUMENT", help="passed on to pytest")
    add_misplaced_arguments(parser)


def run(flags: argparse.Namespace, console: Console) -> int:
    """Become pytest, which runs them: Ctrl-C shows the verdicts so far."""
    tests = ["bench"] if any(Path("bench").rglob("test_*.py")) else PACKAGED
    become("pytest", *tests, "--phase", flags.phase, *_run_options(flags), *flags.pytest_arguments)


def _run_options(flags: argparse.Namespace) -> Iterator[str]:
    """pytest's options for the run that the flags name."""
    for name in RUN_FLAGS:
        if (value := getattr(flags, name)) is not None:
            yield f"--grpo-{name}={value}"
    for change in flags.set:
        yield f"--grpo-set={change}"
