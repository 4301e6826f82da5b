"""A commit checked out beside the user's tree, in a temporary worktree that is removed however the process ends."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pytest_grpo.checkouts.git import ask, git
from pytest_grpo.checkouts.signals import ended_as_by_ctrl_c, finish

_NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")
_IN_USE = "in-use.lock"
_SUBMODULE_MODE = "160000"


@contextmanager
def open_worktree(tree: Path, commit: str, prefix: str) -> Iterator[Path]:
    """``commit`` of the repository of ``tree``, checked out in ``FOLDER/NAME``. FOLDER is temporary; its name begins
    with ``prefix``, and the block may use it.

    The tree, index, branches and stash of the user stay as they are. SIGTERM and SIGHUP act as Ctrl-C in the block; a
    second signal does not stop the removal.

    Raises:
        pytest.UsageError: it cannot be checked out.
    """
    from filelock import FileLock

    problem = f"{tree}: git names no folder of the repository"
    records = (tree / git(tree, "rev-parse", "--git-common-dir", problem=problem)).resolve() / "worktrees"
    with ended_as_by_ctrl_c():
        _remove_those_of_killed(records, prefix)
        folder, owner = _temporary_folder(prefix), os.getpid()
        in_use = FileLock(folder / _IN_USE)  # until the process ends, however it does
        in_use.acquire()
        worktree = folder / folder.name  # git names its record of a worktree after the last part of its path

        def remove() -> None:
            if os.getpid() == owner:  # the end of a fork means nothing
                _remove(records, folder)
                in_use.release()

        atexit.register(remove)  # for a process that never leaves the block
        try:
            problem = f"commit {commit[:12]} cannot be checked out in {worktree}"
            git(tree, *_NO_HOOKS, "worktree", "add", "--quiet", "--detach", str(worktree), commit, problem=problem)
            yield worktree
        finally:
            finish(remove)
            atexit.unregister(remove)


def _temporary_folder(prefix: str) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    except OSError as error:
        raise pytest.UsageError(
            f"no temporary folder for the worktree: {error.strerror}; set TMPDIR to a folder that you can write"
        ) from error


def _remove_those_of_killed(records: Path, prefix: str) -> None:
    """Remove the worktrees of processes that ended without doing so: killed, or out of memory."""
    from filelock import FileLock, Timeout

    for record in records.glob(f"{prefix}*"):
        gitdir = record / "gitdir"
        folder = Path(gitdir.read_text(encoding="utf-8").strip()).parent.parent if gitdir.exists() else None
        if folder is None or folder.name != record.name or not (folder / _IN_USE).exists():
            continue  # not ours, or of a process on another machine
        with suppress(Timeout), FileLock(folder / _IN_USE).acquire(timeout=0):
            _remove(records, folder)


def _remove(records: Path, folder: Path) -> None:
    """Without git, which removes no worktree that was half made."""
    shutil.rmtree(records / folder.name, ignore_errors=True)
    with suppress(OSError):
        records.rmdir()  # unless there are others
    _remove_tree(folder)


def _remove_tree(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # a test made a folder whose files nobody may remove
        for path, folders, _ in os.walk(folder):
            for inner in (Path(path) / name for name in folders):
                if not inner.is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def fill_submodules(tree: Path, worktree: Path, show: Callable[[str], None]) -> None:
    """Check out the submodules of ``worktree``, which git leaves empty, from those that are cloned in ``tree``.

    One that is not cloned there, or lacks the commit, stays empty, and ``show`` gets a line that says so.
    """
    for path, commit in _submodules(worktree):
        source, target = tree / path, worktree / path
        is_there = (source / ".git").exists() and (
            ask(tree, "clone", "--quiet", "--shared", "--no-checkout", str(source), str(target)) is not None
            and ask(target, *_NO_HOOKS, "checkout", "--quiet", "--detach", commit) is not None
        )
        if is_there:
            fill_submodules(source, target, show)
        else:
            shutil.rmtree(target / ".git", ignore_errors=True)
            show(f"submodule {path} at {commit[:12]} is not cloned in {tree}: it stays empty on the other side")


def dirty_submodules(tree: Path) -> list[str]:
    """Paths of submodules with changes of tracked files that are in no commit."""
    status = ask(tree, "status", "--porcelain=v2", "-z", "--untracked-files=no", "--ignore-submodules=none") or ""
    entries = [entry.split(" ") for entry in status.split("\0")]
    # An entry of format 2: kind, state, state of the submodule such as "S.M.", ...; eight fields before the path.
    return [
        " ".join(entry[8:]) for entry in entries if entry[0] == "1" and entry[2].startswith("S") and entry[2][2] == "M"
    ]


def _submodules(worktree: Path) -> list[tuple[str, str]]:
    """The path and the commit of each submodule."""
    listed = ask(worktree, "ls-files", "--stage", "-z") or ""
    entries = [entry.partition("\t") for entry in listed.split("\0") if entry.startswith(_SUBMODULE_MODE)]
    return [(path, stage.split(" ")[1]) for stage, _, path in entries]


def import_path(tree: Path, other: Path) -> list[str]:
    """This process's own import path for ``other``: folders of ``tree``, e.g. of an editable install, are mapped to it,
    those of ``PYTHONPATH`` stay."""
    installed = Path(sys.prefix).resolve()
    own = [
        path for path in map(_resolved, sys.path) if path.is_relative_to(tree) and not path.is_relative_to(installed)
    ]
    given = map(_resolved, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    folders = [other, *(other / path.relative_to(tree) for path in own)]
    folders += [path for path in given if not path.is_relative_to(tree)]
    return [str(folder) for folder in dict.fromkeys(folders)]


def _resolved(entry: str) -> Path:
    return Path(entry).resolve()
