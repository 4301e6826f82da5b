"""Environments with other packages than this process's, made by uv and kept in the cache by content.

An environment has the installed packages in their versions, but for those that must differ and what these bring along.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pytest_grpo.against.packages import Package
from pytest_grpo.against.uv import Uv
from pytest_grpo.checkouts.signals import ended_as_by_ctrl_c, finish

if TYPE_CHECKING:
    from filelock import FileLock

MAX_UNUSED_DAYS = 30
_MARKER = "grpo-environment.json"
"""Written last: a folder without it is of a creation that was killed. Its time is that of the last use."""
_NEEDED_BY_PLUGIN = ("pytest", "pytest-benchmark", "psutil", "filelock", "numpy", "nvidia-ml-py")
_NEEDED_MODULES = "pytest, pytest_benchmark, psutil, filelock, numpy, pynvml"
_MAX_SHOWN = 6
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an environment is made of."""

    changed: tuple[str, ...]
    """What differs from the installed packages: ``torch==2.12``. It is among ``required``."""
    required: tuple[str, ...]
    """Requirements, one a line."""
    preferred: tuple[str, ...]
    """``name==version`` of what is installed here: taken where the requirements allow it."""
    overrides: tuple[str, ...] = ()
    """Requirements that hold whatever other packages say."""
    index_options: tuple[str, ...] = ()
    """Where uv finds packages."""

    @property
    def what(self) -> str:
        """How it differs, for people."""
        return _shown(self.changed)

    @property
    def key(self) -> str:
        """Of the content, the Python and the platform."""
        python = (sys.version, os.path.realpath(sys.executable), sysconfig.get_platform())
        content = [_FORMAT, self.required, self.preferred, self.overrides, self.index_options, python]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def make_recipe(
    installed: Mapping[str, Package],
    changed: Mapping[str, Requirement],
    removed: frozenset[str] = frozenset(),
    overrides: Sequence[str] = (),
    index_options: Sequence[str] = (),
) -> Recipe:
    """The installed packages without the editable ones and those ``removed``; ``changed`` takes the place of theirs."""
    kept = {name: package for name, package in installed.items() if not package.is_editable}
    required = {name: package.requirement for name, package in kept.items() if name not in removed}
    required |= {name: str(requirement) for name, requirement in changed.items()}
    overridden = {canonicalize_name(Requirement(line).name): line for line in overrides}
    overridden |= {name: str(changed[name]) for name in overridden if name in changed}
    return Recipe(
        changed=tuple(str(requirement) for requirement in changed.values()),
        required=(*sorted(required.values()), *_needs_of_plugin()),
        preferred=tuple(sorted(f"{name}=={package.version}" for name, package in kept.items() if not package.url)),
        overrides=tuple(overridden.values()),
        index_options=tuple(index_options),
    )


def environment_python(recipe: Recipe, show: Callable[[str], None]) -> Path:
    """The interpreter of the environment of ``recipe``, which is made when it is not in the cache.

    ``show`` gets a line when it is made, and one when other packages changed along with it. Environments that nobody
    used for ``MAX_UNUSED_DAYS`` are removed.

    Raises:
        pytest.UsageError: uv is not installed, cannot find the packages, or the folder cannot be written.
    """
    from filelock import FileLock

    from grpo_core.errors import HomeError
    from grpo_core.home import cache_folder, make_folder

    uv = Uv.find(f"an environment with {recipe.what}")
    try:
        cache = make_folder(cache_folder() / "environments")
    except HomeError as error:
        raise pytest.UsageError(f"an environment with {recipe.what}: {error}") from error
    folder = cache / recipe.key
    prune_environments(cache, keep=folder)
    with _held(FileLock(folder.with_suffix(".lock")), recipe, show):
        if not ((folder / _MARKER).exists() and (folder / "bin" / "python").exists()):
            show(f"making an environment with {recipe.what} (once)")
            _make(recipe, folder, uv)
        os.utime(folder / _MARKER)
    changes = json.loads((folder / _MARKER).read_text(encoding="utf-8"))["changes"]
    if changes:
        show(f"{recipe.what} also changes {_shown(changes)}")
    return folder / "bin" / "python"


@contextmanager
def _held(lock: FileLock, recipe: Recipe, show: Callable[[str], None]) -> Iterator[None]:
    """One session makes an environment, others wait for it."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        show(f"waiting for another session, which uses or makes the environment with {recipe.what}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def prune_environments(cache: Path, keep: Path) -> None:
    """Remove what nobody used for ``MAX_UNUSED_DAYS``, and what a killed creation left; not what is being made."""
    from filelock import FileLock, Timeout

    oldest_s = time.time() - MAX_UNUSED_DAYS * 86400
    for folder in {path.with_suffix("") for path in cache.iterdir()} - {keep}:
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            with lock.acquire(timeout=0):
                marker = folder / _MARKER
                if not marker.exists() or marker.stat().st_mtime < oldest_s:
                    marker.unlink(missing_ok=True)  # from here on it is no whole one
                    shutil.rmtree(folder, ignore_errors=True)
                    Path(lock.lock_file).unlink(missing_ok=True)
        except Timeout:
            continue


def _make(recipe: Recipe, folder: Path, uv: Uv) -> None:
    from grpo_core.home import write_json

    def clean_up() -> None:
        if not (folder / _MARKER).exists():
            shutil.rmtree(folder, ignore_errors=True)

    shutil.rmtree(folder, ignore_errors=True)  # of a creation that was killed
    with ended_as_by_ctrl_c():
        try:
            resolved = uv.make(folder, recipe.required, recipe.preferred, recipe.overrides, recipe.index_options)
            uv.check_imports(folder, _NEEDED_MODULES)
            write_json(folder / _MARKER, {"what": recipe.what, "changes": _changes(recipe, resolved)})
        finally:
            finish(clean_up)


def _changes(recipe: Recipe, resolved: Sequence[str]) -> list[str]:
    """Packages that changed along with those that were asked for: ``triton 3.7.1 -> 3.7.0``."""
    before = dict(line.split("==") for line in recipe.preferred)
    after = dict(line.split("==") for line in resolved if "==" in line)
    asked = {canonicalize_name(Requirement(line).name) for line in recipe.changed}
    changed = sorted(name for name in after if before.get(name) != after[name])
    return [f"{name} {before.get(name, 'none')} -> {after[name]}" for name in changed if name not in asked]


def _shown(texts: Sequence[str]) -> str:
    more = len(texts) - _MAX_SHOWN
    return ", ".join(texts[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _needs_of_plugin() -> list[str]:
    """As its own metadata has them, so that uv refuses a version that it cannot run with."""
    try:
        wanted = [Requirement(line) for line in requires("pytest-grpo") or []]
    except PackageNotFoundError:  # used from a folder
        return list(_NEEDED_BY_PLUGIN)
    return [str(requirement) for requirement in wanted if requirement.name in _NEEDED_BY_PLUGIN]
