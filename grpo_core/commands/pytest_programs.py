"""``grpo compare``, ``ab``, ``bisect``, ``history``, ``judge`` and ``thresholds``: programs of ``pytest_grpo``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from rich.console import Console

_PROGRAMS = {
    "compare": ("pytest_grpo.baseline.compare",),
    "ab": ("pytest_grpo.against.ab",),
    "bisect": ("pytest_grpo.bisect.run",),
    "history": ("pytest_grpo.drift.command",),
    "judge": ("pytest_grpo.logs.command",),
    "thresholds": ("pytest", "--grpo-show-thresholds"),
}
_THRESHOLDS_HELP = """\
usage: grpo thresholds [PYTEST_OPTION ...]

show the thresholds that hold here, and where each comes from: the file, the ini, GRPO_THRESHOLD or an option

example:
  grpo thresholds --grpo-threshold batched_speedup=3"""


def run_compare(flags: argparse.Namespace, console: Console) -> NoReturn:
    _become("compare", flags)


def run_ab(flags: argparse.Namespace, console: Console) -> NoReturn:
    _become("ab", flags)


def run_bisect(flags: argparse.Namespace, console: Console) -> NoReturn:
    _become("bisect", flags)


def run_history(flags: argparse.Namespace, console: Console) -> NoReturn:
    _become("history", flags)


def run_judge(flags: argparse.Namespace, console: Console) -> NoReturn:
    _become("judge", flags)


def run_thresholds(flags: argparse.Namespace, console: Console) -> int:
    if flags.arguments[:1] in (["-h"], ["--help"]):  # pytest would answer with the whole of its own help
        print(_THRESHOLDS_HELP)
        return 0
    _become("thresholds", flags)


def _become(name: str, flags: argparse.Namespace) -> NoReturn:
    become(*_PROGRAMS[name], *flags.arguments)


def become(*arguments: str) -> NoReturn:
    """Become ``python -m arguments``, so that Ctrl-C reaches it and nobody ends it before it has cleaned up."""
    if sys.stdout is None:  # closed, as in `grpo thresholds >&-`: the program would write to a file that it opens
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.set_inheritable(1, True)
    os.execv(sys.executable, [sys.executable, "-m", *arguments])
