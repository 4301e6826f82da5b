"""Packs the project's files, and modules of one's own outside of it, for a training run in a container."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pytest_grpo.remote.project_files import TreeError, find_files, pack, secrets_line

_OUTSIDE = ".grpo-outside"


@dataclass(frozen=True, slots=True)
class Sources:
    """An archive for ``grpo_core.cloud.sources``, and a line about what was left out of it, empty if nothing was."""

    archive: bytes
    note: str


def pack_sources(root: Path, module: str) -> Sources:
    """The files of the project ``root``, and the package or module ``module`` where that is outside of it.

    Raises:
        TreeError: they are too large together, or there is no such module.
    """
    from grpo_core.cloud.sources import PATHS_FILE

    root = root.resolve()
    found = find_files(root)
    beside, folders = _outside(root, module), _folders_on_path(root)
    if beside:
        folders.append(_OUTSIDE)
    with tempfile.TemporaryDirectory() as scratch:
        paths = Path(scratch) / "paths"
        paths.write_text(json.dumps(folders), encoding="utf-8")
        archive = pack(root, found.sent, {**beside, PATHS_FILE: paths})
    return Sources(archive, secrets_line(found.secrets))


def _outside(root: Path, module: str) -> dict[str, Path]:
    """The files of ``module`` by their names in the archive; none when it is in the project."""
    top = module.partition(".")[0]
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise TreeError(f"environment.name: no module {top!r} here, so it cannot be sent; put it on the Python path")
    origin = Path(spec.origin).resolve()
    if origin.is_relative_to(root) and not _is_installed(origin, root):
        return {}
    if spec.submodule_search_locations is None:
        return {f"{_OUTSIDE}/{origin.name}": origin}
    folder = origin.parent
    return {f"{_OUTSIDE}/{top}/{name}": folder / name for name in find_files(folder).sent}


def _folders_on_path(root: Path) -> list[str]:
    """The project's folders from which modules are imported here, relative to ``root``, which is the last one."""
    entries = [Path(entry or ".").resolve() for entry in sys.path]
    own = [entry for entry in entries if entry.is_dir() and entry.is_relative_to(root) and entry != root]
    names = [entry.relative_to(root).as_posix() for entry in own if not _is_installed(entry, root)]
    return [*dict.fromkeys(names), "."]


def _is_installed(path: Path, root: Path) -> bool:
    """Whether ``path`` is in a virtual environment of the project."""
    return any((parent / "pyvenv.cfg").exists() for parent in (path, *path.parents) if parent.is_relative_to(root))
