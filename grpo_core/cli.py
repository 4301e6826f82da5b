"""The ``grpo`` command. The subcommands are in ``grpo_core.commands``; heavy imports wait until one runs."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

from rich.console import Console

from grpo_core.commands import pytest_programs
from grpo_core.commands.command_line.parser import (
    INTERRUPTED_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    CommandParser,
    did_you_mean,
)
from grpo_core.errors import GrpoError, MissingPackageError
from grpo_core.extras import naming_extras

OUTPUT_LOST_EXIT_CODE = 1
"""Nobody reads the output any more, as in `grpo panels | head -1`."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
"""What a disk that is full, broken, read-only or gone answers."""

Run = Callable[[argparse.Namespace, Console], int]
AddArguments = Callable[[argparse.ArgumentParser], None]


def _of(module: str, function: str) -> Callable[..., Any]:
    """A function of a command's file, which is imported when the function is called: another command may do without the
    packages that this one needs."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"grpo_core.commands.{module}"), function)(*arguments)

    return call


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand. Without ``add_arguments`` its arguments are handed over to another program as they are."""

    name: str
    summary: str
    run: Run
    add_arguments: AddArguments | None = None
    example: str | None = None
    when: str = ""
    """When to use it, and when another one; lines of the help."""


GROUPS: Mapping[str, tuple[Command, ...]] = {
    "begin": (
        Command(
            "init",
            "write a starter into a project: settings, a test, thresholds, a CI workflow",
            _of("init", "run"),
            _of("init", "add_arguments"),
            "grpo init",
            "What exists is left as it is.",
        ),
    ),
    "judge": (
        Command(
            "bench",
            "run the phases and print a verdict per gate",
            _of("bench", "run"),
            _of("bench", "add_arguments"),
            "grpo bench --phase 2,5 -- --grpo-save before",
            "The phases are those of the folder bench/, or, where it has no tests, those that come with pytest-grpo.\n"
            "It judges the loop against thresholds. To only time one part: grpo benchmark.",
        ),
        Command("compare", "find the gates that lost between two stored results", pytest_programs.run_compare),
        Command("ab", "compare two versions in pairs: is one faster?", pytest_programs.run_ab),
        Command(
            "bisect", "find the first commit on which a phase fails or a quantity is slower", pytest_programs.run_bisect
        ),
        Command("history", "find the commits at which the stored results changed", pytest_programs.run_history),
        Command("judge", "judge a finished run of any stack by the log that it left", pytest_programs.run_judge),
        Command("thresholds", "show the thresholds and where each comes from", pytest_programs.run_thresholds),
        Command(
            "doctor",
            "run the canaries: does the engine sample what the trainer trains on?",
            _of("doctor", "run"),
            _of("doctor", "add_arguments"),
            "grpo doctor --quick",
        ),
    ),
    "measure one part": (
        Command(
            "benchmark",
            "time rollouts, the trainer or the whole loop, without a verdict",
            _of("measure", "run_benchmark"),
            _of("measure", "add_benchmark_arguments"),
            "grpo benchmark --profile e2e --buffer-depth 3 --policy-lag 2",
            "--profile chooses the part that is timed; no profiler runs.\n"
            "For a trace of the torch profiler: grpo profile. For verdicts: grpo bench.",
        ),
        Command(
            "profile",
            "trace rollouts or the trainer with the torch profiler",
            _of("measure", "run_profile"),
            _of("measure", "add_profile_arguments"),
            "grpo profile --target trainer --compact-prompts",
            "--target chooses the part. The trace says where the time goes; tracing itself takes time.\n"
            "For times without a trace: grpo benchmark --profile PART.",
        ),
    ),
    "train": (
        Command(
            "train",
            "train a policy",
            _of("train", "run"),
            _of("train", "add_arguments"),
            "grpo train --environment arithmetic --steps 60 --set training.loss=gspo",
            "--set reaches every setting, also those without a flag of their own. Without a model and an environment\n"
            "it trains the preset adder on sums of two numbers up to 14, of which one in five is never asked.",
        ),
        Command(
            "config",
            "show the configuration in effect, and where each value came from",
            _of("config", "run"),
            _of("config", "add_arguments"),
            "grpo config --config run.toml --set training.loss=gspo",
            "With a RUN: what that is trained with. The output is TOML, for --config.",
        ),
        Command(
            "evaluate",
            "ask a checkpoint held-out questions",
            _of("evaluate", "run"),
            _of("evaluate", "add_arguments"),
            "grpo evaluate watched --step 40",
            "While a run trains: --set evaluation.every_steps=N of grpo train.",
        ),
        Command(
            "export",
            "write a checkpoint as a folder for PEFT, transformers and vLLM",
            _of("export", "run"),
            _of("export", "add_arguments"),
            "grpo export first --step 200 --merge my-model",
        ),
        Command(
            "serve",
            "serve a checkpoint or a model to clients of OpenAI's API",
            _of("serve", "run"),
            _of("serve", "add_arguments"),
            "grpo serve first --step 200",
            "Agents that a run trains ask the run itself: see Agent in docs/your-data.md.",
        ),
    ),
    "look": (
        Command(
            "explain",
            "say where a run's time goes, and which setting to try",
            _of("explain", "run"),
            _of("explain", "add_arguments"),
            "grpo explain my-run",
            "It reads the ledger in the run's events. Whether a change helped, a phase says: grpo bench.",
        ),
        Command(
            "runs",
            "list what runs take on disk, and remove old ones",
            _of("runs", "run"),
            _of("runs", "add_arguments"),
            "grpo runs --prune --days 30",
            "Without --prune it changes nothing.",
        ),
        Command(
            "samples",
            "print what was said in a step, and what it earned",
            _of("samples", "run"),
            _of("samples", "add_arguments"),
            "grpo samples first --step 40 --worst 5",
        ),
        Command(
            "send",
            "send the events that Axiom or W&B missed",
            _of("send", "run"),
            _of("send", "add_arguments"),
            "grpo send --run first",
            "A run whose service was away says at its end how many events wait in its file.",
        ),
        Command(
            "dashboard",
            "look at runs and verdicts on a live page",
            _of("dashboard", "run"),
            _of("dashboard", "add_arguments"),
            "grpo dashboard --open",
            "It reads what runs write below GRPO_HOME, and changes nothing. For a terminal: grpo panels --watch.",
        ),
        Command(
            "trace",
            "open a trace of grpo profile in Perfetto",
            _of("trace", "run"),
            _of("trace", "add_arguments"),
            "grpo trace first",
            "The trace goes from this machine to your browser, and nowhere else.",
        ),
        Command(
            "axiom",
            "push the panels to Axiom as a dashboard, with monitors and annotations",
            _of("axiom", "run"),
            _of("axiom", "add_arguments"),
            "grpo axiom push --dry-run",
            "What is there already is brought up to date, and nothing is made twice.",
        ),
        Command(
            "wandb",
            "push stored verdicts to Weights & Biases, or save a view of the charts there",
            _of("wandb", "run"),
            _of("wandb", "add_arguments"),
            "grpo wandb push before --html report.html",
            "A second push of a name brings its run up to date, and a second view the one that was made.",
        ),
        Command(
            "panels",
            "show the dashboard's panels in the terminal",
            _of("panels", "run"),
            _of("panels", "add_arguments"),
            "grpo panels --watch",
        ),
    ),
    "set up": (
        Command(
            "completion",
            "print a script that completes commands and options in the shell",
            lambda flags, console: _print_completion(flags),
            _of("completion", "add_arguments"),
            "grpo completion bash",
            'In ~/.bashrc: eval "$(grpo completion bash)". In ~/.zshrc: eval "$(grpo completion zsh)".',
        ),
    ),
}


OPTIONS = ("-h", "--help", "--version")
"""What stands in the place of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code: 0 done, 1 a red verdict, 2 a mistake in the input, 130 interrupted,
    143 ended by SIGTERM."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if not given:  # as `uv` does
        parser.print_help(sys.stderr)
        return USER_ERROR_EXIT_CODE
    names = [command.name for group in GROUPS.values() for command in group]
    if given[0] not in (*names, *OPTIONS):
        what, allowed = ("option", OPTIONS) if given[0].startswith("-") else ("command", names)
        parser.fail(f"no {what} {given[0]!r}; {did_you_mean(given[0], allowed, 'see grpo --help')}")
    try:
        with naming_extras():
            flags = parser.parse_args(given)
    except MissingPackageError as error:
        parser.fail(f"error: {error}")
    return run_command(flags.run_command, flags)


def run_command(run: Run, flags: argparse.Namespace) -> int:
    """Run ``run`` and turn what a user can fix into one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("grpo_core").setLevel(logging.INFO if flags.verbose else logging.WARNING)
    logging.getLogger("grpo_core.model.presets").setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a log in ASCII has no progress bar, but it is no error
    try:
        with naming_extras():
            exit_code = run(flags, Console(highlight=False))
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is noticed here at the latest
        return exit_code
    except GrpoError as error:
        print(f"grpo: error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    except BrokenPipeError:
        if not _is_reader_gone():
            raise
        _throw_output_away()
        return OUTPUT_LOST_EXIT_CODE
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        if error.filename is None:
            _throw_output_away()
        what = "the output" if error.filename is None else error.filename
        print(f"grpo: error: cannot write {what}: {error.strerror}; free space for it", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        print("grpo: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE


def _is_reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads; another pipe of this process may be broken, too."""
    if sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def _throw_output_away() -> None:
    """Python writes what is left for stdout at its end, and would complain once more."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def script(description: str, add_arguments: AddArguments, run: Run) -> int:
    """The body of a file in ``scripts/``: one subcommand under a name of its own."""
    parser = CommandParser(description=description)
    _add_all(add_arguments, parser)
    return run_command(run, parser.parse_args())


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="grpo",
        usage="grpo COMMAND ...",
        description="Train with GRPO, and judge the training loop.",
        epilog=f"{_listed()}\n\ngrpo COMMAND --help shows a command's options, their defaults and an example.",
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    subparsers = parser.add_subparsers(prog="grpo", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for command in (command for group in GROUPS.values() for command in group):
        if command.add_arguments is None:
            # No argument starts with NUL, so none is taken for an option here: `--` and `--help` are handed over, too.
            inner = subparsers.add_parser(command.name, add_help=False, prefix_chars="\0")
            inner.add_argument("arguments", nargs=argparse.REMAINDER)
            inner.set_defaults(verbose=False)
        else:
            text = f"{command.summary}\n\n{command.when}".rstrip()
            fill = partial(_add_all, command.add_arguments)
            inner = subparsers.add_parser(command.name, description=text, example=command.example, fill=fill)
        inner.set_defaults(run_command=command.run)
    return parser


class _ShowVersion(argparse.Action):
    """Reads the installed version only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"pytest-grpo {version('pytest-grpo')}")
        parser.exit()


def _print_completion(flags: argparse.Namespace) -> int:
    """The script for every command; one that needs packages that are not here completes files."""
    from grpo_core.commands.completion import completion_script

    parsers: dict[str, argparse.ArgumentParser | None] = {}
    for command in (command for group in GROUPS.values() for command in group):
        parsers[command.name] = None
        if command.add_arguments is not None:
            parser = CommandParser(prog=command.name)
            try:
                _add_all(command.add_arguments, parser)
            except ModuleNotFoundError:
                continue
            parsers[command.name] = parser
    print(completion_script(flags.shell, parsers), end="")
    return 0


def _listed() -> str:
    """The title of each group, and a line per command."""
    return "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {command.name:<12}{command.summary}" for command in commands)
        for title, commands in GROUPS.items()
    )


def _add_all(add_arguments: AddArguments, parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    _add_verbose(parser)


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the parts do, e.g. adapter cache hits")


if __name__ == "__main__":
    sys.exit(main())
