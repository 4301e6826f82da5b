"""Local files that travel: each content once, and lists of which content goes where."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

if TYPE_CHECKING:
    from tests.modal_server.blobs import Blobs
    from tests.modal_server.containers import Container
    from tests.modal_server.state import State


class Mounts:
    def __init__(self, state: State, blobs: Blobs) -> None:
        self._state = state
        self._blobs = blobs
        self._folder = state.folder / "contents"
        self._folder.mkdir()

    async def MountBatchedCheckExistence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, _: Container | None
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [digest for digest in request.sha256_hex_hashes if not (self._folder / digest).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(
        self, request: api_pb2.MountPutFileRequest, _: Container | None
    ) -> api_pb2.MountPutFileResponse:
        has_data = request.WhichOneof("data_oneof") is not None
        if has_data:
            content = self._blobs.get(request.data_blob_id) if request.data_blob_id else request.data
            if hashlib.sha256(content).hexdigest() != request.sha256_hex:
                raise GRPCError(Status.INVALID_ARGUMENT, "the content has another sha256")
            (self._folder / request.sha256_hex).write_bytes(content)
        return api_pb2.MountPutFileResponse(exists=(self._folder / request.sha256_hex).exists())

    async def MountGetOrCreate(
        self, request: api_pb2.MountGetOrCreateRequest, _: Container | None
    ) -> api_pb2.MountGetOrCreateResponse:
        for file in request.files:
            if not (self._folder / file.sha256_hex).exists():
                raise GRPCError(Status.FAILED_PRECONDITION, f"{file.filename} was not uploaded")
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        mount_id = f"mo-{digest[:16]}"
        self._state.mounts[mount_id] = list(request.files)
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=digest)
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    def place(self, mount_ids: list[str], root: Path) -> None:
        """Put the files of ``mount_ids`` under ``root``."""
        for mount_id in mount_ids:
            for file in self._state.mounts[mount_id]:
                target = root / file.filename.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._folder / file.sha256_hex, target)
                if file.mode:
                    target.chmod(file.mode & 0o777 | 0o600)
