"""One socket that speaks the protocol. The socket says who is calling: each container has one of its own."""

from __future__ import annotations

import abc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream
from modal_proto.api_grpc import ModalClientBase

if TYPE_CHECKING:
    from tests.modal_server.containers import Container

Check = Callable[[Stream], Awaitable[None]]


def _signatures() -> dict[str, Handler]:
    """Path, kind and messages of every call that the SDK knows."""
    nothing = {name: None for name in ModalClientBase.__abstractmethods__}
    return abc.ABCMeta("Signatures", (ModalClientBase,), nothing)().__mapping__()


class Endpoint:
    """Answers with the method of a room that has the call's name, or with UNIMPLEMENTED.

    A room's method takes the request and the calling container (None: a client) and returns the reply, or yields
    replies where the call streams.
    """

    def __init__(self, rooms: list[object], caller: Container | None = None, check: Check | None = None) -> None:
        self._rooms = rooms
        self._caller = caller
        self._check = check
        self._server = _Server([self])

    def __mapping__(self) -> dict[str, Handler]:
        return {path: handler._replace(func=self._answer(path, handler)) for path, handler in _signatures().items()}

    async def listen(self, port: int) -> None:
        await self._server.start("127.0.0.1", port)

    async def listen_on(self, path: Path) -> None:
        await self._server.start(path=str(path))

    async def close(self) -> None:
        """Stop listening and break every connection."""
        self._server.close()
        self._server.sever()
        await self._server.wait_closed()

    def _answer(self, path: str, handler: Handler) -> Callable[[Stream], Awaitable[None]]:
        name = path.rpartition("/")[2]
        method: Any = next((getattr(room, name) for room in self._rooms if hasattr(room, name)), None)

        async def answer(stream: Stream) -> None:
            request = await stream.recv_message()
            if self._check is not None:
                await self._check(stream)
            if method is None:
                raise GRPCError(Status.UNIMPLEMENTED, f"{name} is not part of the local Modal server")
            if handler.cardinality is Cardinality.UNARY_UNARY:
                await stream.send_message(await method(request, self._caller))
            else:
                async for reply in method(request, self._caller):
                    await stream.send_message(reply)

        return answer


class _Server(Server):
    """grpclib's server, which can also break the connections that it has."""

    def __init__(self, handlers: list[Any]) -> None:
        super().__init__(handlers)
        self._protocols: weakref.WeakSet[H2Protocol] = weakref.WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._protocols.add(protocol)
        return protocol

    def sever(self) -> None:
        for protocol in list(self._protocols):
            if hasattr(protocol, "connection"):
                protocol.connection._transport.abort()
