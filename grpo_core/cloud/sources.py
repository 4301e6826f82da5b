"""Modules and data of the user's own in a container: an archive on the data volume, under its checksum.

A run keeps the archive that it started with, until another one is sent. A warm container may have used another archive
before: its modules are forgotten, so that changed code is loaded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from grpo_core.errors import ConfigError
from grpo_core.home import Home, check_name, parse_json, write_atomic, write_folder

PATHS_FILE = ".grpo-paths.json"
"""In the archive: the folders in it that are to be on Python's path, as a JSON list."""

MAX_UNPACKED_BYTES = 256 << 20
"""At most a quarter of this is packed (``pytest_grpo.remote.project_files``)."""

_in_use: list[Path] = []  # the folder that this process uses, if any


def keep_sources(home: Home, archive: bytes) -> str:
    """Write ``archive`` to ``home``. Returns the checksum under which ``use_sources`` finds it."""
    digest = hashlib.sha256(archive).hexdigest()
    write_atomic(_archive(home, digest), archive)
    return digest


def sources_of(home: Home, run: str, sent: str) -> str:
    """The checksum of what ``run`` uses: ``sent``, from now on, or what was sent for it before; empty for neither."""
    path = home.data / "sources" / f"{check_name(run, 'run')}.json"
    if sent:
        write_atomic(path, json.dumps({"sources": sent}).encode())
        return sent
    return str(parse_json(path.read_bytes())["sources"]) if path.is_file() else ""


def use_sources(home: Home, digest: str, scratch: Path, reload: Callable[[], None]) -> None:
    """Make the archive's folder the working folder of this process, and its modules importable, here and in children.

    It is unpacked below ``scratch``, once. ``reload`` makes what other containers committed visible here; it is called
    only when the archive is not. Without a ``digest`` nothing happens, but that what was used before is forgotten.

    Raises:
        ConfigError: there is no such archive.
    """
    _forget()
    if not digest:
        return
    folder = scratch / f"grpo-sources-{check_name(digest, 'sources')}"
    if not folder.is_dir():
        path = _archive(home, digest)
        if not path.is_file():
            reload()
        if not path.is_file():
            raise ConfigError(f"sources {digest}: not on the volume; start the run again from your machine")
        with write_folder(folder) as written:
            unpack(path.read_bytes(), written)
    os.chdir(folder)
    paths = [str(folder / path) for path in parse_json((folder / PATHS_FILE).read_bytes())]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, os.environ.get("PYTHONPATH")]))
    _in_use.append(folder)


def unpack(archive: bytes, folder: Path) -> None:
    """Write the files of ``archive`` below ``folder``. Nothing is written outside of it.

    Raises:
        ConfigError: it is damaged, larger than what is ever sent, or has a file that would be outside.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
            left = MAX_UNPACKED_BYTES
            for member in opened:
                left -= member.size
                if left < 0:
                    raise ConfigError(f"an archive of more than {MAX_UNPACKED_BYTES >> 20} MiB; none as large is sent")
                opened.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise ConfigError(f"an archive that cannot be unpacked ({type(error).__name__}); send it again") from error


def _forget() -> None:
    """Undo what ``use_sources`` did before, imported modules included."""
    while _in_use:
        folder = _in_use.pop()
        sys.path[:] = [entry for entry in sys.path if not _is_inside(entry, folder)]
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in inherited if not _is_inside(entry, folder))
        for name, module in list(sys.modules.items()):
            if _is_inside(str(vars(module).get("__file__")), folder):
                del sys.modules[name]


def _is_inside(path: str, folder: Path) -> bool:
    return f"{path}{os.sep}".startswith(f"{folder}{os.sep}")


def _archive(home: Home, digest: str) -> Path:
    return home.data / "sources" / f"{digest}.tar.gz"
