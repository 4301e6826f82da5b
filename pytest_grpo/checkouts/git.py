"""git, asked in a process of its own: what it prints, or one line for the user."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

_SET_BY_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
"""A hook that runs pytest has these set for its own repository: in a worktree they would name the user's index."""


def git(folder: Path, *arguments: str, problem: str) -> str:
    """What git prints. Raises pytest.UsageError with ``problem`` and the reason that git gives when it fails."""
    done = _run(folder, arguments)
    if done.returncode != 0:
        raise pytest.UsageError(f"{problem} ({reason})" if (reason := _reason(done.stderr)) else problem)
    return done.stdout.strip("\n")


def ask(folder: Path, *arguments: str, said: str = "") -> str | None:
    """What git prints when it is told ``said``; None when it fails."""
    done = _run(folder, arguments, said)
    return done.stdout.strip("\n") if done.returncode == 0 else None


def top_folder(folder: Path) -> Path:
    """The top of the working tree that ``folder`` is in. Raises pytest.UsageError when there is none."""
    if ask(folder, "rev-parse", "--is-bare-repository") == "true":
        raise pytest.UsageError(f"{folder}: a bare repository, which has no files; clone it, and run there")
    return Path(git(folder, "rev-parse", "--show-toplevel", problem=f"{folder}: not in a git repository")).resolve()


def commit_of(tree: Path, revision: str) -> str | None:
    """The full hash of the commit that ``revision`` names; None when it names none."""
    if revision.startswith("-"):
        return None
    return ask(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}") or None


def unknown_revision(tree: Path, revision: str, allowed: str) -> pytest.UsageError:
    """Says that ``revision`` names no commit, what is ``allowed``, and how to get one that a shallow clone lacks."""
    line = f"revision {revision!r}: not known in {tree}; name {allowed}"
    if commit_of(tree, f"origin/{revision}") is not None:
        line += f" (origin/{revision} is known)"
    elif ask(tree, "rev-parse", "--is-shallow-repository") == "true":
        line += "; this clone is shallow: git fetch --unshallow, or --depth=N, brings older commits"
    return pytest.UsageError(line)


def _run(folder: Path, arguments: tuple[str, ...], said: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in _SET_BY_HOOKS}
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment | {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},  # the user's index stays
            input=said,
            capture_output=True,
            text=True,
            errors="surrogateescape",  # a file's name may be any bytes
            check=False,
        )
    except FileNotFoundError:
        raise pytest.UsageError("git: not found; install it") from None


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("error:", "fatal:"))]  # the first: others follow from it
    return (reasons or lines[-1:] or [""])[0]
