"""Which test files are read when phases are asked for: those in whose code a phase marker stands.

A large suite takes minutes to import, and only a few of its files have phases.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.settings.phases import PHASE_NUMBERS, named_on_command_line

NUM_LEFT_OUT = pytest.StashKey[int]()
"""Files that were not read, because no phase marker stands in them."""
_MENTION = re.compile(rb"phase[0-6{]")
_PHASES_ONLY = re.compile(r"\s*phase[0-6](\s+or\s+phase[0-6])*\s*")


def is_left_out(path: Path, config: pytest.Config) -> bool:
    """Whether only phases are asked for, and ``path`` is a Python file that cannot hold one. A file that the command
    line names is always read."""
    if path.suffix != ".py" or not _wants_phases_only(config) or not path.is_file():
        return False
    if path.name in ("conftest.py", "__init__.py") or _may_hold_phases(path, config):
        return False
    if any(named == path.resolve() for named, _ in named_on_command_line(config)):
        return False
    config.stash[NUM_LEFT_OUT] = config.stash.get(NUM_LEFT_OUT, 0) + 1
    return True


def _wants_phases_only(config: pytest.Config) -> bool:
    """Whether no test without a phase can be selected."""
    asks = config.stash[PLUGIN_CONFIG].only_phases is not None
    return asks or _PHASES_ONLY.fullmatch(config.getoption("markexpr") or "") is not None


def _may_hold_phases(path: Path, config: pytest.Config) -> bool:
    """Whether a phase marker stands in the file, or in a conftest.py that could give it one."""
    folders = [folder for folder in path.parents if folder.is_relative_to(config.rootpath)]
    return names_a_phase(path) or any(names_a_phase(folder / "conftest.py") for folder in folders)


@cache
def names_a_phase(path: Path) -> bool:
    """Whether the code of a file has the name of a phase marker. Text that only mentions it does not count.

    A file that cannot be parsed counts, so that pytest reports it.
    """
    try:
        source = path.read_bytes()
    except OSError:
        return False
    if _MENTION.search(source) is None:
        return False
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return True
    return any(map(_is_phase, ast.walk(tree)))


def _is_phase(node: ast.AST) -> bool:
    """``mark.phase2``, the text ``"phase2"``, or an f-string such as ``f"phase{number}"``."""
    if isinstance(node, ast.Attribute):
        return node.attr in PHASE_NUMBERS
    if isinstance(node, ast.JoinedStr):
        first = node.values[0] if node.values else None
        return isinstance(first, ast.Constant) and first.value == "phase"
    return isinstance(node, ast.Constant) and node.value in PHASE_NUMBERS
