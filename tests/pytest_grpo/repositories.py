"""Real repositories for tests, and all of them that must stay as it was."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def make_repository(folder: Path, *commits: Mapping[str, str]) -> Path:
    """A repository in ``folder`` with one commit for each mapping from paths to contents."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.email", "a@b")
    git(folder, "config", "user.name", "a")
    for files in commits:
        commit_files(folder, files)
    return folder


def commit_files(folder: Path, files: Mapping[str, str]) -> str:
    """Commit ``files`` and return the commit."""
    write_files(folder, files)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", f"writes {', '.join(files)}")
    return git(folder, "rev-parse", "HEAD")


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def state_of(folder: Path) -> dict[str, str]:
    """What git knows of the tree, index, branches, stash, worktrees and settings, and the bytes of index and HEAD."""
    asked = (
        ["status", "--porcelain=v2", "--ignored"],
        ["worktree", "list", "--porcelain"],
        ["for-each-ref"],
        ["stash", "list"],
        ["reflog", "-n", "20"],
        ["config", "--local", "--list"],
        ["diff"],
    )
    state = {" ".join(arguments): git(folder, *arguments) for arguments in asked}
    inner = (folder / git(folder, "rev-parse", "--git-dir")).resolve()
    return (
        state
        | {name: (inner / name).read_bytes().hex() for name in ("index", "HEAD")}
        | {"records": str(sorted(path.name for path in inner.glob("worktrees/*")))}
    )
