"""Payloads too large for a message: the SDK puts them to a URL and gets them from one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from aiohttp import web
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

from tests.modal_server.records import new_id

if TYPE_CHECKING:
    from tests.modal_server.containers import Container


class Blobs:
    """An HTTP server on 127.0.0.1 and a dictionary."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._runner: web.AppRunner | None = None
        self._url = ""

    async def start(self) -> None:
        site = web.Application(client_max_size=1 << 30)
        site.router.add_put("/{blob}", self._put)
        site.router.add_get("/{blob}", self._get)
        self._runner = web.AppRunner(site, access_log=None)
        await self._runner.setup()
        listener = web.TCPSite(self._runner, "127.0.0.1", 0)
        await listener.start()
        self._url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def BlobCreate(self, request: api_pb2.BlobCreateRequest, _: Container | None) -> api_pb2.BlobCreateResponse:
        blob_id = new_id("bl")
        return api_pb2.BlobCreateResponse(
            blob_id=blob_id,
            upload_url=f"{self._url}/{blob_id}",
            blob_ids=[blob_id],
            upload_urls=api_pb2.UploadUrlList(items=[f"{self._url}/{blob_id}"]),
        )

    async def BlobGet(self, request: api_pb2.BlobGetRequest, _: Container | None) -> api_pb2.BlobGetResponse:
        self.get(request.blob_id)
        return api_pb2.BlobGetResponse(download_url=f"{self._url}/{request.blob_id}")

    def get(self, blob_id: str) -> bytes:
        if blob_id not in self._contents:
            raise GRPCError(Status.NOT_FOUND, f"no blob {blob_id!r}")
        return self._contents[blob_id]

    def put(self, content: bytes) -> str:
        """Keep ``content`` and return the URL to get it from."""
        blob_id = new_id("bl")
        self._contents[blob_id] = content
        return f"{self._url}/{blob_id}"

    async def _put(self, request: web.Request) -> web.Response:
        content = await request.read()
        self._contents[request.match_info["blob"]] = content
        return web.Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    async def _get(self, request: web.Request) -> web.Response:
        content = self._contents.get(request.match_info["blob"])
        return web.Response(status=404) if content is None else web.Response(body=content)
