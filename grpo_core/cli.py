"""The ``grpo`` command. The subcommands are in ``grpo_core.commands``; heavy imports wait until one runs."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import select
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version

from rich.console import Console

from grpo_core.commands.command_line.commands import COMMANDS, AddArguments, Command, Run, lazy_function
from grpo_core.commands.command_line.output import throw_away
from grpo_core.commands.command_line.parser import (
    INTERRUPTED_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    CommandParser,
    did_you_mean,
)
from grpo_core.errors import GrpoError, MissingPackageError, printable
from grpo_core.extras import naming_extras

OUTPUT_LOST_EXIT_CODE = 1
"""Nobody reads the output any more, as in `grpo panels | head -1`."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
"""What a disk that is full, broken, read-only or gone answers."""

GROUPS: Mapping[str, tuple[Command, ...]] = {
    **COMMANDS,
    "set up": (
        Command(
            "completion",
            "print a script that completes commands and options in the shell",
            lambda flags, console: _print_completion(flags),
            lazy_function("completion", "add_arguments"),
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
    except KeyboardInterrupt:  # while a command is imported
        print("grpo: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
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
            exit_code = run(flags, Console(highlight=False, emoji=False))
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is noticed here at the latest
        return exit_code
    except GrpoError as error:
        print(f"grpo: error: {printable(str(error))}", file=sys.stderr)
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
    if sys.stdout is not None:
        throw_away(sys.stdout)


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
