"""docs/options.md: the plugin's options with their ini twins, the flags of ``grpo``, the environment variables."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast
from unittest import mock

import pytest

from grpo_core.cli import GROUPS, Command
from grpo_core.commands.command_line.parser import CommandParser
from pytest_grpo.baseline import compare
from pytest_grpo.bisect import run as bisect
from pytest_grpo.drift import command as history
from pytest_grpo.logs import command as judge
from pytest_grpo.plugin import pytest_addoption
from scripts.environment_variables import environment_tables
from scripts.markdown_table import table

HEAD = """# Options

<!-- Written by scripts/write_pages.py. Do not edit. -->

```console
$ uv run pytest --phase 2,5 --grpo-pairs 8,12,18
$ uv run grpo train --steps 20 --set training.loss=gspo
```

This page is written from the code by `uv run python scripts/write_pages.py`; a test compares the two. The settings that
`--set` and `--config` reach are in [configuration.md](configuration.md).

## pytest

An option wins over its ini value. Ini values are in the project's `pytest.ini`, or in `pyproject.toml`:

```toml
[tool.pytest.ini_options]
grpo_budget = "20"
grpo_threshold = ["batched_speedup=1.5"]
```
"""
SCRIPTS = """`scripts/profile_rollout.py` takes the flags of `grpo profile`, and `scripts/benchmark_training.py`
those of `grpo benchmark`."""
SHARED = """Shared by `grpo train`, `grpo benchmark` and `grpo profile`. Each sets one key of the
[configuration](configuration.md); a default of another command is in brackets.
"""
DEFAULT = re.compile(r" \(default: ((?:[^()]|\([^()]*\))*)\)")


@dataclass
class Recorder:
    """Takes the place of ``pytest.Parser`` and writes down what the plugin adds."""

    options: list[tuple[tuple[str, ...], dict[str, Any]]] = field(default_factory=list)
    ini: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def getgroup(self, name: str, description: str = "") -> Recorder:
        return self

    def addoption(self, *names: str, **settings: Any) -> None:
        self.options.append((names, settings))

    def addini(self, name: str, text: str, type: str = "string", default: object = None) -> None:
        self.ini[name] = (text, default)


def options_page() -> str:
    return "\n".join([HEAD, plugin_tables(), command_sections(), "## Environment variables\n", environment_tables()])


def plugin_tables() -> str:
    """The options in the order of ``pytest --help``, and the ini values that have no option."""
    recorder = Recorder()
    pytest_addoption(cast(pytest.Parser, recorder))
    rows, twins = [], set()
    for names, settings in recorder.options:
        if settings["help"] == argparse.SUPPRESS:
            continue
        dest = settings.get("dest") or names[0].removeprefix("--").replace("-", "_")
        twins.add(dest)
        text, default = split_default(settings["help"].replace("%%", "%"))
        default = default or _ini_default(recorder.ini.get(dest))
        rows.append(
            (_flags(names, settings.get("metavar")), f"`{dest}`" if dest in recorder.ini else "", default, text)
        )
    only_ini = []
    for name, (text, value) in recorder.ini.items():
        if name not in twins:
            text, default = split_default(text)
            only_ini.append((f"`{name}`", default or _ini_default(("", value)), text))
    options = table(("option", "ini", "default", "what for"), rows)
    return f"{options}\n\nWithout an option:\n\n{table(('ini', 'default', 'what for'), only_ini)}\n"


def _ini_default(ini: tuple[str, Any] | None) -> str:
    value = ini[1] if ini is not None else None
    return f"`{value}`" if isinstance(value, str) and value else ""


def command_sections() -> str:
    """A section per ``grpo`` command, and one of the flags that several have."""
    commands = [command for group in GROUPS.values() for command in group]
    parsers = {command.name: parser for command in commands if (parser := _parser_of(command)) is not None}
    shared = {name: _configuration_flags(parsers[name]) for name in ("train", "benchmark", "profile")}
    sections = [_command_section(command, parsers.get(command.name)) for command in commands]
    return "\n".join([*sections, f"## Configuration flags\n\n{SHARED}\n{_shared_table(shared)}\n\n{SCRIPTS}\n"])


def _command_section(command: Command, parser: argparse.ArgumentParser | None) -> str:
    summary = command.summary[0].upper() + command.summary[1:]
    parts = [f"## grpo {command.name}", summary if summary.endswith("?") else f"{summary}."]
    if command.when:
        parts.append(command.when)
    if command.example:
        parts.append(f"```console\n$ uv run {command.example}\n```")
    if parser is None:
        parts.append("It takes the [options of pytest](#pytest).")
    else:
        inner = _configuration_flags(parser)
        rows = [_flag_row(action) for action in _shown(parser._actions) if action not in inner]
        parts.append(table(("argument", "default", "what for"), rows))
        if inner:
            parts.append("And the [configuration flags](#configuration-flags).")
    return "\n\n".join(parts) + "\n"


def _parser_of(command: Command) -> argparse.ArgumentParser | None:
    """The parser of the command's own arguments; None when it hands them to pytest."""
    if command.add_arguments is not None:
        parser = CommandParser(prog=f"grpo {command.name}")
        command.add_arguments(parser)
        return parser
    programs = {"compare": compare.main, "bisect": bisect.main, "history": history.main, "judge": judge.main}
    return parser_inside(programs[command.name]) if command.name in programs else None


def parser_inside(main: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    """The parser that ``main`` makes: it is taken when it is asked to parse."""
    taken: list[argparse.ArgumentParser] = []

    def take(self: argparse.ArgumentParser, *_: object) -> NoReturn:
        taken.append(self)
        raise SystemExit

    with mock.patch.object(argparse.ArgumentParser, "parse_args", take), contextlib.suppress(SystemExit):
        main([])
    return taken[0]


def _configuration_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    groups = [group for group in parser._action_groups if group.title == "configuration"]
    return [action for group in groups for action in group._group_actions]


def _shared_table(flags_of: dict[str, list[argparse.Action]]) -> str:
    rows = []
    for same in zip(*flags_of.values(), strict=True):
        defaults: dict[str, list[str]] = {}
        for name, action in zip(flags_of, same, strict=True):
            defaults.setdefault(_flag_row(action)[1], []).append(name)
        (first, _), *others = defaults.items()
        words = [first, *(f"({', '.join(names)}: {default})" for default, names in others)]
        rows.append((_flag_row(same[0])[0], " ".join(words), _flag_row(same[0])[2]))
    return table(("flag", "default", "what for"), rows)


def _shown(actions: Sequence[argparse.Action]) -> list[argparse.Action]:
    return [action for action in actions if action.help != argparse.SUPPRESS and action.dest != "help"]


def _flag_row(action: argparse.Action) -> tuple[str, str, str]:
    text, default = split_default(action.help or "")
    if not default and action.option_strings and action.default not in (None, False, 0, [], argparse.SUPPRESS):
        default = f"`{action.default}`"
    if action.choices:
        text += f": {', '.join(f'`{choice}`' for choice in action.choices)}"
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return f"`{metavar}`", default, text
    return _flags(action.option_strings, metavar if action.nargs != 0 else None), default, text


def _flags(names: Sequence[str], metavar: str | None) -> str:
    """``--model NAME``, the other names of the same option behind it."""
    first, *others = names
    shown = [f"{first} {metavar}" if metavar else first, *others]
    return ", ".join(f"`{name}`" for name in shown)


def split_default(text: str) -> tuple[str, str]:
    """``rounds (default: 8)`` as ``rounds`` and ``8``, the latter as code when it is one word."""
    found = DEFAULT.search(text)
    if found is None or "%(default)s" in found[1]:
        return DEFAULT.sub("", text), ""
    default = found[1] if " " in found[1] else f"`{found[1]}`"
    return text[: found.start()] + text[found.end() :], default
