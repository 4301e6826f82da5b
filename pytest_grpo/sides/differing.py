"""Which files differ between two sides: a quantity whose code is in none of them cannot have changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pytest_grpo.checkouts.git import ask
from pytest_grpo.types import SIDE_FOLDER

_NO_SOURCES = {
    *(".git", ".venv", "__pycache__", ".grpo", ".hypothesis", ".benchmarks", ".tox", ".nox", "node_modules"),
    SIDE_FOLDER,
}
_SAYS_WHAT_IT_IS = ("CACHEDIR.TAG", "pyvenv.cfg")
"""A file that a cache, or a virtual environment, has at its top."""
_CHANGED = (
    *("-c", "diff.autoRefreshIndex=false"),  # the user's index is not written
    *("diff", "--name-only", "--no-renames", "--relative", "--ignore-submodules=untracked", "-z"),
)
_LISTED = ("ls-files", "-z", "--exclude-standard")


def differing_files(here: Path, other: Path) -> list[str]:
    """Paths, relative to both folders, of files whose contents differ or that one of them lacks.

    They are files that git tracks or would track; without git, all but caches and virtual environments. A submodule is
    one path, and differs when its commit does.
    """
    names = _changed_in_git(here, other)
    if names is None:
        names = _all_files(here, other)
    return sorted(name for name in names if not _is_same(here / name, other / name))


def _changed_in_git(here: Path, other: Path) -> set[str] | None:
    """All that may differ between the same parts of two checkouts of one repository; None when they are no such."""
    places = [_place(folder) for folder in (here, other)]
    commits = [_ask(folder, "rev-parse", "--verify", "--quiet", "HEAD") for folder in (here, other)]
    if places[0] is None or places[0] != places[1] or None in commits:
        return None
    names = _names(ask(here, *_CHANGED, *map(str, commits)))
    for folder in (here, other):
        names |= _names(ask(folder, *_CHANGED, "HEAD")) | _names(ask(folder, *_LISTED, "--others"))
    return names


def _place(folder: Path) -> tuple[Path, str] | None:
    """The repository that ``folder`` is a checkout of, and where in it; None when it is none."""
    said = _ask(folder, "rev-parse", "--git-common-dir", "--show-prefix")
    if said is None:
        return None
    common, _, inside = said.partition("\n")
    return (folder / common).resolve(), inside


def _all_files(here: Path, other: Path) -> set[str]:
    listed = {folder: _ask(folder, *_LISTED, "--cached", "--others") for folder in (here, other)}
    checkout = next((folder for folder, text in listed.items() if text is not None), None)
    names: set[str] = set()
    for folder, text in listed.items():
        if text is not None:
            names |= _names(text)
        else:
            found = set(_walk(folder))
            names |= found - _ignored(checkout, found) if checkout is not None else found
    return names


def _ignored(checkout: Path, names: Iterable[str]) -> set[str]:
    """The ``names`` that git would ignore in ``checkout``."""
    return _names(ask(checkout, "check-ignore", "-z", "--stdin", said="\0".join(names)))


def _walk(root: Path) -> Iterator[str]:
    for path, folders, files in os.walk(root):
        here = Path(path)
        folders[:] = [
            name
            for name in folders
            if name not in _NO_SOURCES and not any((here / name / mark).exists() for mark in _SAYS_WHAT_IT_IS)
        ]
        yield from (
            (here / name).relative_to(root).as_posix()
            for name in files
            if name not in _NO_SOURCES and not name.endswith(".pyc")
        )


def _is_same(one: Path, two: Path) -> bool:
    if any(path.is_symlink() for path in (one, two)):
        return one.is_symlink() and two.is_symlink() and os.readlink(one) == os.readlink(two)
    if one.is_dir() and two.is_dir():  # a submodule
        return _ask(one, "rev-parse", "HEAD") == _ask(two, "rev-parse", "HEAD")
    if not one.is_file() or not two.is_file():
        return not one.exists() and not two.exists()
    return one.stat().st_size == two.stat().st_size and one.read_bytes() == two.read_bytes()


def _names(said: str | None) -> set[str]:
    return set(filter(None, (said or "").split("\0")))


def _ask(folder: Path, *arguments: str) -> str | None:
    """``ask``, of a git that need not be installed."""
    try:
        return ask(folder, *arguments)
    except pytest.UsageError:
        return None
