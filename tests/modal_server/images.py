"""Images. Nothing is installed: containers run the interpreter of the tests. What an image sets in ENV is kept."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from modal_proto import api_pb2

from tests.modal_server.apps import BUILDER_VERSION

if TYPE_CHECKING:
    from tests.modal_server.containers import Container
    from tests.modal_server.state import State

_BUILT = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


class Images:
    def __init__(self, state: State) -> None:
        self._state = state
        self._built: set[str] = set()

    async def ImageGetOrCreate(
        self, request: api_pb2.ImageGetOrCreateRequest, _: Container | None
    ) -> api_pb2.ImageGetOrCreateResponse:
        digest = hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()
        image_id = f"im-{digest[:16]}"
        self._state.images[image_id] = request.image
        if image_id in self._built or not self._state.faults.image_build_s:
            return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=_BUILT, metadata=_metadata())
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id)

    async def ImageJoinStreaming(
        self, request: api_pb2.ImageJoinStreamingRequest, _: Container | None
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        log = api_pb2.TaskLogs(data=f"=> building {request.image_id}\n", file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT)
        yield api_pb2.ImageJoinStreamingResponse(task_logs=[log], entry_id="1-0")
        await asyncio.sleep(self._state.faults.image_build_s)
        self._built.add(request.image_id)
        yield api_pb2.ImageJoinStreamingResponse(result=_BUILT, metadata=_metadata(), entry_id="2-0", eof=True)

    async def ImageFromId(
        self, request: api_pb2.ImageFromIdRequest, _: Container | None
    ) -> api_pb2.ImageFromIdResponse:
        return api_pb2.ImageFromIdResponse(image_id=request.image_id, metadata=_metadata())


def environment_of(state: State, image_id: str) -> dict[str, str]:
    """What the image and those it is based on set with ENV."""
    image = state.images.get(image_id)
    if image is None:
        return {}
    found: dict[str, str] = {}
    for base in image.base_images:
        found |= environment_of(state, base.image_id)
    for command in image.dockerfile_commands:
        if command.startswith("ENV "):
            for entry in shlex.split(command.removeprefix("ENV ")):
                name, _, value = entry.partition("=")
                found[name] = value
    return found


def _metadata() -> api_pb2.ImageMetadata:
    return api_pb2.ImageMetadata(image_builder_version=BUILDER_VERSION, python_version_info="3.11", workdir="/root")
