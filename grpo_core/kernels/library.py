"""Compiled libraries in a cache: ``NAME-<sha256 of the file>.so``. Loaded is only what is whole, and nobody else's."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import stat
from pathlib import Path

from grpo_core.home import write_atomic

logger = logging.getLogger(__name__)

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def find_library(folder: Path, name: str) -> ctypes.CDLL | None:
    """The library ``name`` in ``folder``, loaded. None where there is none that is whole and nobody else's."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        try:
            return _load(path)
        except (OSError, ValueError) as error:
            logger.info("%s is not used: %s", path, error)
    return None


def keep_library(folder: Path, name: str, content: bytes) -> None:
    """Write a library for ``find_library``. It is on disk, as a whole, when it gets its name.

    Raises:
        HomeError: the folder cannot be written.
    """
    write_atomic(folder / f"{name}-{hashlib.sha256(content).hexdigest()}.so", content, "GRPO_CACHE", 0o644)


def _load(path: Path) -> ctypes.CDLL:
    """Raises OSError or ValueError when it cannot be read, trusted or loaded."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _check(descriptor, path)
        # What was checked, whatever the path is now. It stays open: the system's loader knows libraries by their names.
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except BaseException:
        os.close(descriptor)
        raise


def _check(descriptor: int, path: Path) -> None:
    """Raises ValueError when the open file is not what this user or root wrote to ``path``."""
    status = os.fstat(descriptor)
    if status.st_uid not in (os.geteuid(), 0):
        raise ValueError(f"it belongs to user {status.st_uid}")
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise ValueError("others may write to it")
    with open(descriptor, "rb", closefd=False) as file:
        if not path.stem.endswith(f"-{hashlib.sha256(file.read()).hexdigest()}"):
            raise ValueError("it does not match its checksum")
