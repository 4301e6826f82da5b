"""The ``grpo`` command. Each subcommand is a file in ``grpo_core.commands``; heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from grpo_core.commands import doctor, measure, pytest_programs, train
from grpo_core.commands.train import INTERRUPTED_EXIT_CODE
from grpo_core.errors import ConfigError, GrpoError
from grpo_core.home import Home

USER_ERROR_EXIT_CODE = 2

Command = Callable[[argparse.Namespace, Console], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code: 0 done, 1 a red verdict, 2 a mistake in the input, 130 interrupted."""
    flags = _parser().parse_args(arguments)
    return run_command(flags.command, flags)


def run_command(command: Command, flags: argparse.Namespace) -> int:
    """Run ``command`` and turn what a user can mend into one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("grpo_core").setLevel(logging.INFO if flags.verbose else logging.WARNING)
    logging.getLogger("grpo_core.model.policy").setLevel(logging.INFO)
    try:
        return command(flags, Console(highlight=False))
    except GrpoError as error:
        print(f"grpo: error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        print("grpo: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE


def script(description: str, add_arguments: Callable[[argparse.ArgumentParser], None], command: Command) -> int:
    """The body of a file in ``scripts/``: one subcommand under a name of its own."""
    parser = argparse.ArgumentParser(description=description)
    add_arguments(parser)
    _add_verbose(parser)
    return run_command(command, parser.parse_args())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grpo", description="Train with GRPO, and measure the training loop.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, text: str, command: Command, add_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
        inner = commands.add_parser(name, help=text, description=text)
        add_arguments(inner)
        _add_verbose(inner)
        inner.set_defaults(command=command)

    add("train", "train a policy", train.run, train.add_arguments)
    add("profile", "trace rollouts or the trainer", measure.run_profile, measure.add_profile_arguments)
    add("benchmark", "time rollouts, the trainer or both", measure.run_benchmark, measure.add_benchmark_arguments)
    add("bench", "run the performance phases and print their verdicts", _bench, _add_bench_arguments)
    add("doctor", "run the canaries against a rollout engine", doctor.run, doctor.add_arguments)
    add("panels", "show the dashboard's panels here", _panels, _add_panels_arguments)
    pytest_programs.add_commands(commands)
    return parser


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the parts do, e.g. adapter cache hits")


def _add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--phase", default="all", help="2,5 or all (default)")
    parser.add_argument("pytest_arguments", nargs="*", metavar="-- PYTEST_ARGUMENT", help="passed on to pytest")


def _bench(flags: argparse.Namespace, console: Console) -> int:
    if not Path("bench").is_dir():
        raise ConfigError("grpo bench: no bench/ folder here; run it from the root of the project")
    command = [sys.executable, "-m", "pytest", "bench", "--phase", flags.phase, *flags.pytest_arguments]
    return subprocess.run(command, check=False).returncode


def _add_panels_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="refresh until Ctrl-C")
    parser.add_argument("--interval-s", type=float, default=1.0, help="seconds between refreshes")


def _panels(flags: argparse.Namespace, console: Console) -> int:
    from grpo_core.telemetry.terminal import render, watch

    home = Home.from_environment()
    if flags.watch:
        watch(home, flags.interval_s, console)
    else:
        console.print(render(home))
    return 0


if __name__ == "__main__":
    sys.exit(main())
