"""``grpo init``: the first files of a project, written where there are none."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from grpo_core.errors import ConfigError, HomeError
from grpo_core.extras import install_command, missing_modules
from grpo_core.home import write_atomic

RUN, TEST = "run.toml", "tests/test_rollout_speed.py"
THRESHOLDS = "bench/thresholds.toml"
"""Where the plugin looks for it. Without tests beside it, ``grpo bench`` still runs the phases of the package."""
WORKFLOW = ".github/workflows/grpo.yml"


@dataclass(frozen=True, slots=True)
class StarterFile:
    path: str
    """Relative to the project."""
    purpose: str
    content: bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        default=".",
        metavar="FOLDER",
        help="the project; made if it does not exist (default: this folder)",
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """Write them. What exists is left as it is, and named."""
    folder, starter = Path(flags.folder), starter_files()
    missing = [file for file in starter if not os.path.lexists(folder / file.path)]
    for file in missing:
        _check_writable(folder / file.path)
    for file in starter:
        if file in missing:
            _write(folder / file.path, file.content)
        told = f"wrote {file.path:<30}{file.purpose}" if file in missing else f"left  {file.path:<30}it exists"
        console.print(told, markup=False, soft_wrap=True)
    console.print("\nnext:", *_next_steps(folder), sep="\n", markup=False, soft_wrap=True)
    return 0


def starter_files() -> list[StarterFile]:
    here = files("grpo_core.commands.starter")
    return [
        StarterFile(RUN, "what grpo train --config run.toml trains", (here / "run.toml").read_bytes()),
        StarterFile(TEST, "two arms that do the same work", (here / "test_rollout_speed.py.txt").read_bytes()),
        StarterFile(THRESHOLDS, "when a phase is red: yours to change", _thresholds()),
        StarterFile(WORKFLOW, "the test and every phase, on GitHub", (here / "grpo.yml").read_bytes()),
    ]


def _thresholds() -> bytes:
    """The thresholds of the package, with a word on where they come from."""
    package = find_spec("pytest_grpo")
    assert package is not None, "grpo_core and pytest_grpo are one distribution"
    assert package.origin is not None, "it is no namespace package"
    own = version("pytest-grpo")
    lines = (
        f"# Copied from pytest-grpo {own} by grpo init. Change a number, or delete its line: the phases that come\n"
        "# with pytest-grpo then take the package's own. grpo thresholds shows which one holds.\n"
    )
    return lines.encode() + (Path(package.origin).parent / "bench" / "thresholds.toml").read_bytes()


def _next_steps(folder: Path) -> list[str]:
    steps = [] if folder == Path() else [f"cd {shlex.quote(str(folder))}"]
    steps.append(f"pytest {TEST}")
    if missing_modules("train"):
        steps.append(f"{install_command('bench')}      # the training stack, and what its phases need")
    return [f"  {step}" for step in [*steps, f"grpo train --config {RUN}", "grpo bench --phase 3"]]


def _check_writable(target: Path) -> None:
    """Raises ConfigError before anything is written, when ``target`` cannot be."""
    nearest = next(parent for parent in target.absolute().parents if os.path.lexists(parent))
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is not a folder; name another one, or move it away")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"cannot write in {nearest}: permission denied; name a folder that you can write")


def _write(target: Path, content: bytes) -> None:
    try:
        write_atomic(target, content).chmod(0o644)  # not for the owner alone, as temporary files are
    except HomeError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
        raise ConfigError(f"cannot write {target}: {reason}; nothing else was written") from error
