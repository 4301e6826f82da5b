"""Opens a side of a comparison: a checkout of a revision, or a folder.

with open_side(root, "HEAD~1", [], print) as side:
    subprocess.run([side.python, "-m", "pytest"], cwd=side.root)
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_grpo.checkouts.git import ask, commit_of, top_folder, unknown_revision
from pytest_grpo.checkouts.worktrees import dirty_submodules, fill_submodules, import_path, open_worktree
from pytest_grpo.sides.interpreter import PackageChoice, this_python

_ALLOWED = "a commit, tag, branch or folder"
_FULL_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SideTree:
    """One side: where its code is, and what runs it."""

    name: str
    """How tables call it: ``here``, ``main``, ``HEAD~1``, a folder's name, ``torch==2.12``."""
    root: Path
    """The folder that pytest runs in: the project's root in this tree."""
    python: Path
    """The interpreter, with the packages of this side."""
    commit: str | None
    """The commit whose files the tree has exactly; None where there is none, as with uncommitted changes."""
    import_path: tuple[str, ...]
    """Folders for ``PYTHONPATH``."""


def on_stderr(line: str) -> None:
    """The usual ``show`` of ``open_side``."""
    print(f"grpo: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class _Revision:
    tree: Path
    """The top of the user's working tree."""
    folder: Path
    """The tests' root, relative to it."""
    commit: str


def this_side(root: Path) -> SideTree:
    """The working tree as it is, run by this process's Python."""
    root = root.resolve()
    tree = _tree_of(root) or root
    return SideTree("here", root, this_python(), exact_commit(root), tuple(import_path(tree, tree)))


@contextmanager
def open_side(
    root: Path, against: str, packages: Sequence[str], show: Callable[[str], None], one_environment: str = ""
) -> Iterator[SideTree]:
    """What the tests of ``root`` are compared with: the side that ``against`` names, with ``packages`` exchanged.

    ``against`` is a revision, which is checked out for the time of the block; a folder, which is used as it is; or
    ``.``, the same code. ``show`` gets lines for the user. ``one_environment`` says why none can be made for the side.

    Raises:
        pytest.UsageError: there is no such side, or it cannot be made; in one line.
    """
    root = root.resolve()
    choice = PackageChoice.parse(packages)
    found = _find(root, against)
    name = _FULL_HASH.sub(lambda match: match[0][:12], against)
    with ExitStack() as stack:
        if isinstance(found, _Revision):
            _tell_of_folder(against, show)
            _check_submodules(found.tree)
            tree, other_tree = found.tree, stack.enter_context(open_worktree(found.tree, found.commit, "grpo-against-"))
            fill_submodules(tree, other_tree, show)
            other, commit = other_tree / found.folder, found.commit
        else:
            tree, other_tree = _corresponding(root, found)
            other, commit = found, exact_commit(found)
            name = found.name if found != root else ""
        python = choice.python([(root, other), (tree, other_tree)], show, one_environment)
        if found == root and python == this_python():
            show("both sides are the same code with the same packages: what differs is noise")
        name = "+".join(filter(None, (name, *map(str, choice.asked.values())))) or "again"
        path = import_path(tree, other_tree)
        if python != this_python():
            path += choice.editable_path(tree)
        yield SideTree(name, other, python, commit, tuple(dict.fromkeys(path)))


def exact_commit(folder: Path) -> str | None:
    """The commit that the checkout ``folder`` is in has exactly; None with changes, outside of one or without git."""
    try:
        is_clean = ask(folder, "status", "--porcelain") == ""
        return ask(folder, "rev-parse", "--verify", "--quiet", "HEAD") if is_clean else None
    except pytest.UsageError:
        return None


def _find(root: Path, against: str) -> _Revision | Path:
    if against == ".":
        return root
    if not against or against.startswith("-"):
        raise pytest.UsageError(f"revision {against!r}: no revision is called so; name {_ALLOWED}")
    folder = Path(os.path.expanduser(against))
    if folder.is_absolute() or against.startswith(("./", "../", "~")) or against == "..":
        return _readable(folder, against)
    if _tree_of(root) is None and os.path.isdir(folder):
        return _readable(folder, against)
    try:
        tree = top_folder(root)
    except pytest.UsageError as error:
        raise pytest.UsageError(f"revision {against!r}: {error}; or name a folder") from error
    commit = commit_of(tree, against)
    if commit is None and os.path.isdir(folder):
        return _readable(folder, against)
    if commit is None:
        raise unknown_revision(tree, against, _ALLOWED)
    inside = root.relative_to(tree)
    if inside.parts and ask(tree, "cat-file", "-t", f"{commit}:{inside.as_posix()}") != "tree":
        raise pytest.UsageError(
            f"revision {against!r}: has no folder {inside.as_posix()}, where the tests are; name a later one"
        )
    return _Revision(tree, inside, commit)


def _tell_of_folder(against: str, show: Callable[[str], None]) -> None:
    if os.path.isdir(against):
        show(f"{against} is a revision and a folder: the revision is taken; write ./{against} for the folder")


def _tree_of(folder: Path) -> Path | None:
    """The top of the working tree that ``folder`` is in, if there is one and git is installed."""
    try:
        return top_folder(folder)
    except pytest.UsageError:
        return None


def _readable(folder: Path, against: str) -> Path:
    try:
        os.scandir(folder).close()
    except OSError as error:
        problem = f"folder {against!r}: {error.strerror}; name {_ALLOWED}"
        raise pytest.UsageError(problem) from error
    return folder.resolve()


def _check_submodules(tree: Path) -> None:
    dirty = dirty_submodules(tree)
    if dirty:
        raise pytest.UsageError(
            f"submodule {dirty[0]}: has uncommitted changes, which no revision has; commit them there, or stash them"
        )


def _corresponding(root: Path, other: Path) -> tuple[Path, Path]:
    """``root`` and ``other``, or the tops of their trees where both are at the same place of one."""
    tree = _tree_of(root) or root
    inside = root.relative_to(tree).parts
    if inside and other.parts[-len(inside) :] == inside:
        return tree, other.parents[len(inside) - 1]
    return root, other
