"""Volumes: what is committed, and one view of it per container.

A container sees the others' commits after ``reload`` and shows its own after ``commit``. Unlike Modal, nothing is
committed in the background while a container runs, so that a forgotten ``commit`` is always noticed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

if TYPE_CHECKING:
    from tests.modal_server.blobs import Blobs
    from tests.modal_server.container import Container
    from tests.modal_server.state import State

Stamps = dict[str, tuple[int, int]]
"""Relative path to (mtime in ns, size in bytes)."""


@dataclass(slots=True)
class View:
    """A container's copy of a volume, and the files of both as of their last exchange."""

    committed: Path
    folder: Path
    synced: Stamps = field(default_factory=dict)

    def commit(self) -> None:
        """Publish what this container changed. Of two that changed one file, the last commit counts."""
        mine = _scan(self.folder)
        for name in mine.keys() - self.synced.keys() | {n for n, stamp in mine.items() if self.synced.get(n) != stamp}:
            _copy(self.folder / name, self.committed / name)
        for name in self.synced.keys() - mine.keys():
            (self.committed / name).unlink(missing_ok=True)
        self.synced = mine

    def reload(self) -> None:
        """Fetch what others committed; what was changed here and not committed stays as it is."""
        mine, theirs = _scan(self.folder), _scan(self.committed)
        for name in mine.keys() | theirs.keys():
            if mine.get(name) != self.synced.get(name) or mine.get(name) == theirs.get(name):
                continue
            if name in theirs:
                _copy(self.committed / name, self.folder / name)
                self.synced[name] = theirs[name]
            else:
                (self.folder / name).unlink(missing_ok=True)
                self.synced.pop(name, None)

    def open_files(self, process_group: int) -> list[str]:
        """Files of this view that a process of the container has open or mapped (Linux; elsewhere none are seen)."""
        found: set[str] = set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(process.name)) != process_group:
                    continue
                paths = [os.readlink(link) for link in (process / "fd").iterdir()]
                paths += [line.split(maxsplit=5)[-1] for line in (process / "maps").read_text().splitlines()]
                found |= {path for path in paths if path.startswith(f"{self.folder}/")}
        return sorted(path.removeprefix(f"{self.folder}/") for path in found)


class Volumes:
    def __init__(self, state: State, blobs: Blobs) -> None:
        self._blobs = blobs
        self._folder = state.folder / "volumes"
        self._folder.mkdir()
        self._versions: dict[str, int] = {}
        self.num_commits = 0
        self.num_reloads = 0

    def path(self, name: str, environment: str = "main") -> Path:
        """Where the committed files of a volume lie."""
        return self._folder / f"vo-{environment}-{name}"

    async def VolumeGetOrCreate(
        self, request: api_pb2.VolumeGetOrCreateRequest, _: Container | None
    ) -> api_pb2.VolumeGetOrCreateResponse:
        name = request.deployment_name or f"ephemeral-{len(self._versions)}"
        folder = self.path(name, request.environment_name or "main")
        may_create = request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
        if not folder.exists() and not may_create:
            raise GRPCError(Status.NOT_FOUND, f"no volume {name!r}")
        folder.mkdir(exist_ok=True)
        version = self._versions.setdefault(folder.name, request.version or api_pb2.VOLUME_FS_VERSION_V2)
        metadata = api_pb2.VolumeMetadata(version=version, name=name)  # pyright: ignore[reportArgumentType]
        return api_pb2.VolumeGetOrCreateResponse(volume_id=folder.name, version=metadata.version, metadata=metadata)

    async def VolumeHeartbeat(self, _: object, __: Container | None) -> Empty:
        return Empty()

    async def VolumeCommit(
        self, request: api_pb2.VolumeCommitRequest, container: Container | None
    ) -> api_pb2.VolumeCommitResponse:
        _view(container, request.volume_id).commit()
        self.num_commits += 1
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, request: api_pb2.VolumeReloadRequest, container: Container | None) -> Empty:
        view = _view(container, request.volume_id)
        assert container is not None
        if names := view.open_files(container.process_group):
            raise GRPCError(
                Status.FAILED_PRECONDITION, f"there are open files preventing the operation: {', '.join(names)}"
            )
        view.reload()
        self.num_reloads += 1
        return Empty()

    async def VolumeListFiles2(
        self, request: api_pb2.VolumeListFiles2Request, _: Container | None
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        root = self._folder / request.volume_id
        start = root / request.path.lstrip("/")
        if not start.exists():
            raise GRPCError(Status.NOT_FOUND, f"no {request.path!r} in the volume")
        found = [start] if start.is_file() else sorted(start.rglob("*") if request.recursive else start.iterdir())
        for path in found:
            kind = api_pb2.FileEntry.FILE if path.is_file() else api_pb2.FileEntry.DIRECTORY
            stat = path.stat()
            entry = api_pb2.FileEntry(
                path=path.relative_to(root).as_posix(), type=kind, mtime=int(stat.st_mtime), size=stat.st_size
            )
            yield api_pb2.VolumeListFiles2Response(entries=[entry])

    async def VolumeGetFile2(
        self, request: api_pb2.VolumeGetFile2Request, _: Container | None
    ) -> api_pb2.VolumeGetFile2Response:
        path = self._folder / request.volume_id / request.path.lstrip("/")
        if not path.is_file():
            raise GRPCError(Status.NOT_FOUND, f"no file {request.path!r} in the volume")
        content = path.read_bytes()
        return api_pb2.VolumeGetFile2Response(get_urls=[self._blobs.put(content)], size=len(content), len=len(content))

    def mount(self, volume_id: str, folder: Path) -> View:
        """A fresh view in ``folder`` of what is committed now."""
        folder.mkdir(parents=True, exist_ok=True)
        view = View(self._folder / volume_id, folder)
        view.reload()
        return view


def _view(container: Container | None, volume_id: str) -> View:
    if container is None or volume_id not in container.views:
        raise GRPCError(Status.FAILED_PRECONDITION, "commit and reload work in a container that mounts the volume")
    return container.views[volume_id]


def _scan(folder: Path) -> Stamps:
    found: Stamps = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a temporary file that was renamed meanwhile
            stat = path.stat()
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = (stat.st_mtime_ns, stat.st_size)
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target.with_name(f".{target.name}.copying"))
        target.with_name(f".{target.name}.copying").replace(target)
