"""The parser of every ``grpo`` command: a mistake is one line, and ``--help`` shows the defaults and one example."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

USER_ERROR_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130

TIMES_OR_TRACE = "for times: grpo benchmark --profile {}; for a trace: grpo profile --target rollout, or trainer"
"""What to type instead of an option that chooses the part to measure."""


class CommandParser(argparse.ArgumentParser):
    """``example`` is a command line, shown at the end of the help. ``fill`` adds the arguments once this command is the
    one that is parsed: what they show as defaults may need packages that another command does not."""

    def __init__(
        self,
        *,
        example: str | None = None,
        fill: Callable[[argparse.ArgumentParser], None] | None = None,
        **settings: Any,
    ) -> None:
        if example is not None:
            settings["epilog"] = f"example:\n  {example}"
        self._fill = fill
        super().__init__(formatter_class=_Help, **settings)

    def error(self, message: str) -> NoReturn:
        self.fail(f"error: {message}; see {self.prog} --help")

    def fail(self, line: str) -> NoReturn:
        """End with ``line`` after the command's name."""
        self.exit(USER_ERROR_EXIT_CODE, f"{self.prog}: {line}\n")

    def parse_known_args(  # type: ignore[override]  # the base class has overloads for other namespaces
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As the base class, but what is unknown is an error of this command, not of the one above it."""
        if self._fill is not None:
            self._fill(self)
            self._fill = None
        flags, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.fail(_unknown(unknown[0], self._option_string_actions, self.prog))
        return flags, unknown


class _Help(argparse.RawDescriptionHelpFormatter):
    """Adds the default to the text of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_told = action.help is None or "(default" in action.help
        if is_told or not action.option_strings or action.default in (None, False, [], argparse.SUPPRESS):
            return action.help
        return f"{action.help} (default: %(default)s)"


class Misplaced(argparse.Action):
    """An option that another command has. ``instead`` says what to type; ``{}`` there is the value that was given."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, instead: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", help=argparse.SUPPRESS)
        self.instead = instead

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> NoReturn:
        instead = self.instead.replace("{}", values or "NAME")
        parser.exit(USER_ERROR_EXIT_CODE, f"{parser.prog}: no option {option_string} here; {instead}\n")


def add_misplaced_arguments(parser: argparse.ArgumentParser) -> None:
    """To a command that measures no part: the options of those that do."""
    parser.add_argument("--profile", "--target", action=Misplaced, instead=TIMES_OR_TRACE)


def did_you_mean(word: str, allowed: Iterable[str], otherwise: str) -> str:
    """``did you mean NAME?`` for the nearest of ``allowed``, dashes aside; ``otherwise`` when none is near."""
    by_letters = {name.lstrip("-"): name for name in allowed}
    nearest = difflib.get_close_matches(word.lstrip("-"), list(by_letters), n=1)
    return f"did you mean {by_letters[nearest[0]]}?" if nearest else otherwise


def _unknown(word: str, options: Iterable[str], prog: str) -> str:
    if not word.startswith("-"):
        return f"{word!r} is not expected here; see {prog} --help"
    option = word.partition("=")[0]
    return f"no option {option!r}; {did_you_mean(option, options, f'see {prog} --help')}"
