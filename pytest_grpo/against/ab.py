"""``grpo ab A B``: compares two versions, neither of which need be the working tree."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from pytest_grpo.against.plugin_path import UNSHADOWED, environment_with_plugin
from pytest_grpo.programs import USAGE_EXIT_CODE, program
from pytest_grpo.settings.phases import parse_phases
from pytest_grpo.sides.trees import SideTree, on_stderr, open_side, this_side

COLLECTING = "pytest_grpo.against.worker.collecting"
TOLD_S = 3
"""A terminal tells pytest of Ctrl-C, too, and a second signal would disturb how it ends."""
_PYTEST_USAGE_ERROR = 4
_FILE_OPTIONS = ("--grpo-html", "--grpo-json", "--junitxml", "--junit-xml")
_TAKEN = ("--grpo-against", "--grpo-side-name")


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare them. Exit code: 0 nothing is slower, 1 something is, 2 a usage error, 130 interrupted."""
    from grpo_core.commands.command_line.parser import CommandParser

    parser = CommandParser(
        prog="grpo ab",
        description="compare two versions in pairs: is A faster than B?\n\nArguments after -- go to pytest.",
        example="grpo ab my-branch main --phase 2,3",
    )
    parser.add_argument("a", metavar="A", help="a commit, tag, branch or folder; . is the working tree")
    parser.add_argument("b", metavar="B", help="the version that A is compared with")
    parser.add_argument("--phase", metavar="PHASES", help="phases to run, e.g. 2,5 (default: every test with a gate)")
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    flags, passed_on = parser.parse_args(given[:end]), given[end + 1 :]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # handled as Ctrl-C
    phases = ["--phase", flags.phase] if flags.phase is not None and parse_phases(flags.phase) else []
    passed_on = for_pytest(passed_on, Path.cwd())
    with (
        _open(flags.a) as first,
        _open(flags.b) as second,
        tempfile.TemporaryDirectory(prefix="grpo-ab-") as scratch,
    ):
        code = _run(first, second, Path(scratch), [*phases, *passed_on])
    return USAGE_EXIT_CODE if code == _PYTEST_USAGE_ERROR else code


def _open(version: str) -> AbstractContextManager[SideTree]:
    return nullcontext(this_side(Path.cwd())) if version == "." else open_side(Path.cwd(), version, (), on_stderr)


def for_pytest(arguments: Sequence[str], folder: Path) -> list[str]:
    """``arguments`` for a pytest in another folder, whose reports are written in ``folder`` all the same.

    Raises:
        pytest.UsageError: one of them says what is compared, which A and B do.
    """
    found = []
    for before, argument in itertools.pairwise(("", *arguments)):
        option, sign, value = argument.partition("=")
        if option in _TAKEN:
            raise pytest.UsageError(f"{option} after --: A and B say what is compared; drop it")
        if option in _FILE_OPTIONS and sign:
            argument = f"{option}={folder / value}"
        found.append(str(folder / argument) if before in _FILE_OPTIONS else argument)
    return found


def _run(first: SideTree, second: SideTree, scratch: Path, arguments: Sequence[str]) -> int:
    """pytest's exit code. Its session is ``first``'s, and starts that side again as a worker."""
    command = [str(first.python), *UNSHADOWED, "-m", "pytest", "-p", COLLECTING, "-p", "no:cacheprovider"]
    command += [f"--grpo-against={second.root}", *(f"--grpo-side-name={side.name}" for side in (first, second))]
    # The session keeps what workers do not inherit, such as PYTEST_ADDOPTS.
    environment = os.environ | environment_with_plugin(first.python, scratch, first.import_path)
    with subprocess.Popen([*command, *arguments], cwd=first.root, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            try:
                process.wait(TOLD_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                process.wait()
            raise


if __name__ == "__main__":
    sys.exit(main())
