"""A cache of environments, which uv makes.

Each has a folder, whose name is the key of its recipe. ``KEY/environment.json`` names the folder in it that is whole.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_grpo.checkouts.signals import ended_as_by_ctrl_c, finish
from pytest_grpo.sides.recipe import Recipe, shown
from pytest_grpo.sides.uv import Uv

if TYPE_CHECKING:
    from filelock import FileLock

MAX_UNUSED_DAYS = 30
_MARKER = "environment.json"
"""Written last. Its time is that of the last use."""
_NEEDED_MODULES = "pytest, pytest_benchmark, psutil, filelock, numpy, pynvml"


@dataclass(frozen=True, slots=True)
class _Made:
    python: Path
    changes: tuple[str, ...]
    """What else differs from the installed packages."""


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
        cache = make_folder(cache_folder().absolute() / "environments")
    except HomeError as error:
        raise pytest.UsageError(f"an environment with {recipe.what}: {error}") from error
    folder = cache / recipe.key
    prune_environments(cache, keep=folder)
    with _held(FileLock(folder.with_suffix(".lock")), recipe, show):
        made = _read(folder)
        if made is None:
            show(f"making an environment with {recipe.what} (once)")
            made = _make(recipe, folder, uv)
        os.utime(folder / _MARKER)
    if made.changes:
        show(f"{recipe.what} also changes {shown(made.changes)}")
    return made.python


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


def _make(recipe: Recipe, folder: Path, uv: Uv) -> _Made:
    from grpo_core.home import write_json

    shutil.rmtree(folder, ignore_errors=True)  # of a creation that was killed, whose uv may still be at work in it
    folder.mkdir(exist_ok=True)
    inner = folder / secrets.token_hex(4)

    def clean_up() -> None:
        if not (folder / _MARKER).exists():
            shutil.rmtree(folder, ignore_errors=True)

    with ended_as_by_ctrl_c():
        try:
            resolved = uv.make(inner, recipe.required, recipe.preferred, recipe.overrides, recipe.index_options)
            uv.check_imports(inner, _NEEDED_MODULES)
            made = _Made(inner / "bin" / "python", tuple(recipe.other_changes(resolved)))
            write_json(folder / _MARKER, {"folder": inner.name, "what": recipe.what, "changes": made.changes})
            return made
        finally:
            finish(clean_up)


def _read(folder: Path) -> _Made | None:
    """The environment that ``folder`` holds; None when it is not whole."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    made = _Made(folder / marker["folder"] / "bin" / "python", tuple(marker["changes"]))
    return made if made.python.exists() else None
