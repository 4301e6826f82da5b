"""``grpo completion``: a script that lets the shell complete commands, options and their values."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping

SHELLS = ("bash", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=SHELLS, default="bash", help="what reads it (default: bash)")


def completion_script(shell: str, commands: Mapping[str, argparse.ArgumentParser | None]) -> str:
    """The script for ``shell``; of a command that is None, files are completed only. A value that is no choice is
    completed as a file."""
    lines = ["autoload -U +X bashcompinit && bashcompinit"] if shell == "zsh" else []
    lines += [
        "_grpo() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        '  case "$COMP_CWORD:${COMP_WORDS[1]}:$before" in',
        f"    1:*) words={shlex.quote(' '.join(commands))} ;;",
    ]
    for name, parser in commands.items():
        if parser is not None:
            lines += _cases(name, parser)
    lines += ["  esac", '  COMPREPLY=($(compgen -W "$words" -- "$word"))', "}", "complete -o default -F _grpo grpo", ""]
    return "\n".join(lines)


def _cases(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """First the options with choices, then those that take another value, then all of them."""
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    cases = []
    for action in actions:
        takes_value = action.option_strings and action.nargs != 0
        if takes_value:
            places = "|".join(f"*:{name}:{option}" for option in action.option_strings)
            cases.append(f"    {places}) words={shlex.quote(' '.join(map(str, action.choices or ())))} ;;")
    options = [option for action in actions for option in action.option_strings if option.startswith("--")]
    choices = [str(choice) for action in actions if not action.option_strings for choice in action.choices or ()]
    return [*cases, f"    *:{name}:*) words={shlex.quote(' '.join([*choices, *options]))} ;;"]
