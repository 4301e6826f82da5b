"""GRPO_HOME: where everything on disk lives, and the only way that files get there.

Every write is atomic: a temporary file or folder beside the target, fsync, rename. A reader sees the old content or
the new one, never half of it. What is written is for its owner alone; what others are meant to read, such as published
weights and reports, is ``SHARED``: for those whom the umask lets.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_core.errors import HomeError, InvalidNameError

_NAME = re.compile(r"[A-Za-z0-9._-]+")
SHARED = 0o666
"""The mode of files that others are meant to read. The system takes the umask away."""
_PRIVATE = 0o600
_MAX_NAME_LENGTH = 128  # a file system takes 255 bytes, and files have endings


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one installation. ``data`` and ``traces`` are volumes of their own on Modal."""

    data: Path
    traces: Path

    @classmethod
    def from_environment(cls) -> Home:
        """``$GRPO_HOME``, or ``.grpo`` in the working folder."""
        root = Path(os.path.expanduser(os.environ.get("GRPO_HOME") or ".grpo")).resolve()
        return cls(data=root / "data", traces=root / "traces")

    @property
    def measured(self) -> Home:
        """Where a measurement has its adapters, batches and events: apart from those of a run of the same name."""
        return Home(self.data / "measured", self.traces)

    @property
    def benchmarks(self) -> Path:
        """Snapshots of profiles and benchmarks, ``<profile-name>.json``."""
        return self.data / "benchmarks"

    @property
    def adapters(self) -> Path:
        """The folder of the ``AdapterStore``: published weights."""
        return self.data / "adapters"

    @property
    def buffer(self) -> Path:
        """A folder per run: batches that wait for the trainer, or that a checkpoint still needs."""
        return self.data / "buffer"

    @property
    def checkpoints(self) -> Path:
        """A folder per run, with a folder per checkpoint: ``<run>/step-000010``."""
        return self.data / "checkpoints"

    @property
    def locks(self) -> Path:
        """A file per run, which the process that trains it has locked: ``<run>.lock``."""
        return self.data / "locks"

    @property
    def events(self) -> Path:
        """A file of events per run: ``<run>.jsonl``."""
        return self.data / "events"

    @property
    def samples(self) -> Path:
        """A folder per run: what was said in some of its batches, as Parquet."""
        return self.data / "samples"

    @property
    def deliveries(self) -> Path:
        """How far each service has the events of a run: ``<run>.<service>.json``."""
        return self.data / "deliveries"

    @property
    def states(self) -> Path:
        """Cached starting states of environments."""
        return self.data / "states"


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it is safe as one path component.

    Raises:
        InvalidNameError: it is empty, ``.``, ``..``, longer than 128 characters, or has others than letters, digits,
            ``.``, ``_``, ``-``.
    """
    if len(name) > _MAX_NAME_LENGTH:
        raise InvalidNameError(
            f"{what} {name[:20]!r}...: {len(name)} characters, at most {_MAX_NAME_LENGTH} are allowed; shorten it"
        )
    if not is_name(name):
        raise InvalidNameError(
            f"{what} {name!r}: only letters, digits, '.', '_' and '-' are allowed; choose a name like 'local-profile'"
        )
    return name


def is_name(name: str) -> bool:
    """Whether ``check_name`` lets ``name`` pass."""
    return len(name) <= _MAX_NAME_LENGTH and bool(_NAME.fullmatch(name)) and name not in {".", ".."}


def make_folder(folder: Path, variable: str = "GRPO_HOME") -> Path:
    """Create ``folder`` and its parents. ``variable`` is what a user sets to have it elsewhere.

    Raises:
        HomeError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HomeError(_unwritable(folder, error, variable)) from error
    if not os.access(folder, os.W_OK):
        raise HomeError(_unwritable(folder, "permission denied", variable))
    return folder


def check_writable(folder: Path) -> None:
    """Before anything is made: whether ``make_folder`` could make ``folder``.

    Raises:
        HomeError: as there.
    """
    present = next(path for path in (folder, *folder.parents) if path.exists())
    if not present.is_dir():
        raise HomeError(_unwritable(present, "it is no folder", "GRPO_HOME"))
    if not os.access(present, os.W_OK):
        raise HomeError(_unwritable(present, "permission denied", "GRPO_HOME"))


def write_atomic(target: Path, content: bytes, variable: str = "GRPO_HOME", mode: int = _PRIVATE) -> Path:
    """Write ``content`` to ``target`` so that a reader sees all or none of it. ``variable`` is as in ``make_folder``.

    The file has ``mode`` less the umask, whatever mode one had that it replaces.

    Raises:
        HomeError: the folder cannot be written.
    """
    folder = make_folder(target.parent, variable)
    try:
        temporary = _beside(folder, target)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HomeError(_unwritable(target, error, variable)) from error
    return target


@contextmanager
def write_folder(target: Path, mode: int = 0o700) -> Iterator[Path]:
    """Yield an empty folder to fill. After the block it is on disk as ``target``, and replaces a folder of that name.
    It has ``mode`` less the umask.

    ``target`` never has a part of the content, whenever this process is killed. A block that fails leaves nothing
    behind; a killed process leaves a hidden folder ``.<name of target>.*``.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = _beside(target.parent, target)
    temporary.mkdir(mode)
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        if target.exists():
            remove_folder(target)
        os.rename(temporary, target)
        sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove the folder ``path``. It is hidden first, so that a half-removed folder never has its name."""
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def sync(path: Path) -> None:
    """Write what the system holds back of the file or folder ``path`` to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(folder: Path, target: Path) -> Path:
    """A new hidden name in ``folder``, for what will be ``target``."""
    return folder / f".{target.name[:_MAX_NAME_LENGTH]}.{secrets.token_hex(8)}"


def write_json(target: Path, content: Mapping[str, Any], mode: int = _PRIVATE) -> Path:
    """``write_atomic`` of ``content`` as indented JSON with sorted keys."""
    return write_atomic(target, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode(), mode=mode)


def parse_json(content: bytes | str) -> Any:
    """The value that ``content`` holds as JSON.

    Raises:
        ValueError: it is no JSON, or nested so deeply that Python's parser gives up.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unwritable(path: Path, why: object, variable: str) -> str:
    reason = why.strerror if isinstance(why, OSError) else why
    return f"cannot write {path}: {reason}; set {variable} to a folder that you can write"


def cache_folder() -> Path:
    """``$GRPO_CACHE``, else ``pytest-grpo`` in the user's cache folder."""
    root = os.environ.get("GRPO_CACHE")
    if root:
        return Path(os.path.expanduser(root))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-grpo"
