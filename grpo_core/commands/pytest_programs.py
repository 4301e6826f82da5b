"""``grpo compare``, ``grpo bisect`` and ``grpo thresholds``: programs of ``pytest_grpo``, not imported here."""

from __future__ import annotations

import argparse
import os
import sys

from rich.console import Console

_PROGRAMS = {
    "compare": (("pytest_grpo.baseline.compare",), "find the gates that lost between two stored results"),
    "bisect": (("pytest_grpo.bisect.run",), "find the first commit on which a phase fails"),
    "thresholds": (("pytest", "--grpo-show-thresholds"), "show the thresholds and where each comes from"),
}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Each as a subcommand. Their arguments are handed over as they are, ``--`` and ``--help`` too."""
    for name, (program, text) in _PROGRAMS.items():
        # No argument starts with NUL, so none is taken for an option here.
        inner = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
        inner.add_argument("arguments", nargs=argparse.REMAINDER)
        inner.set_defaults(command=run, program=program, verbose=False)


def run(flags: argparse.Namespace, console: Console) -> int:
    """Become the program, so that Ctrl-C reaches it and nobody ends it before it has cleaned up."""
    os.execv(sys.executable, [sys.executable, "-m", *flags.program, *flags.arguments])
