"""One process trains a run at a time: a second one would delete the first one's adapters and batches.

The lock is the system's own, on a file, so it ends with the process, however that ends. Forked children do not have it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from grpo_core.errors import ConfigError, HomeError
from grpo_core.home import Home, check_name, make_folder, parse_json

logger = logging.getLogger(__name__)

_TAKEN = (errno.EACCES, errno.EAGAIN)
_MAX_REOPENED = 4  # some file systems report another inode for an open file
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_LINUX_LAYOUT = "hhqqi"  # struct flock: type, whence, start, length, process
_DARWIN_LAYOUT = "qqihh"  # start, length, process, type, whence

_holders: dict[Path, int] = {}  # lock file -> the thread of this process that has it: the system knows processes only
_holders_guard = threading.Lock()


@contextmanager
def hold_run(home: Home, run: str) -> Iterator[None]:
    """Nobody else trains ``run`` in ``home`` while the block runs. A thread may hold it twice.

    Raises:
        ConfigError: another process or thread trains it; the message says which.
        HomeError: the lock file cannot be written.
    """
    path = _path(home, run)
    own = threading.get_ident()
    with _holders_guard:
        holder = _holders.get(path)
        if holder is None:
            _holders[path] = own
    if holder == own:
        yield
        return
    if holder is not None:
        raise _taken(run, f"another thread of this process, {os.getpid()}")
    try:
        with _locked(path, run):
            yield
    finally:
        del _holders[path]


def check_free(home: Home, run: str) -> None:
    """Before anything is loaded: raises ``ConfigError`` when another process trains ``run`` now. Writes nothing new."""
    if _path(home, run).exists():
        with hold_run(home, run):
            pass


def is_held(home: Home, run: str) -> bool:
    """Whether a process trains ``run`` now. Asks without taking the lock: nobody who wants it is turned away."""
    path = _path(home, run)
    layout, kind = (_LINUX_LAYOUT, 0) if sys.platform == "linux" else (_DARWIN_LAYOUT, 3)
    question = [0] * 5
    question[kind] = fcntl.F_WRLCK
    with _holders_guard:
        if path in _holders:  # the system would not tell; and closing the file would release this process's own lock
            return True
        try:
            with path.open("rb") as file:
                answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *question))
        except OSError:  # it was never trained here, or the file system has no locks
            return False
    return struct.unpack(layout, answer)[kind] != fcntl.F_UNLCK


@contextmanager
def _locked(path: Path, run: str) -> Iterator[None]:
    with _open_locked(path, run) as file:
        file.truncate(0)
        file.write(json.dumps(_own_description()).encode())
        file.flush()
        yield


def _open_locked(path: Path, run: str) -> IO[bytes]:
    """The file at ``path`` with this process's lock. One that was removed since it was opened is opened anew: the next
    process would lock another file."""
    file = _open_and_lock(path, run)
    for _ in range(_MAX_REOPENED):
        if _is_at(path, file):
            break
        file.close()
        file = _open_and_lock(path, run)
    return file


def _open_and_lock(path: Path, run: str) -> IO[bytes]:
    make_folder(path.parent)
    try:
        file = path.open("a+b")  # keeps what it says of another holder
    except OSError as error:
        raise HomeError(f"cannot write {path}: {error.strerror}; make it writable") from error
    with ExitStack() as opened:
        opened.enter_context(file)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise _taken(run, _described(file)) from None
            if error.errno not in _NO_LOCKS:
                raise HomeError(f"cannot lock {path}: {error.strerror}; make it writable") from error
            logger.info("no locks in %s (%s): do not train a run twice at once", path.parent, error.strerror)
        opened.pop_all()
    return file


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:  # there is no file any more; of one that another host removed, NFS says that its handle is stale
        return False


def _own_description() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "since": since}


def _described(file: IO[bytes]) -> str:
    """The holder, as far as its lock file says."""
    file.seek(0)
    try:
        holder = parse_json(file.read())
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # it has just begun to write
        return "another process"


def _taken(run: str, holder: str) -> ConfigError:
    return ConfigError(f"run {run!r} is being trained by {holder}; wait for it, stop it, or give --run another name")


def _path(home: Home, run: str) -> Path:
    return home.locks / f"{check_name(run, 'run')}.lock"
