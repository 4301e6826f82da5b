"""Runs phases on Modal, each in its own container."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from pytest_grpo.remote.event_loop import Background, BackgroundCall
from pytest_grpo.remote.modal.app import ModalApp, UnreachableError, is_reachable, translated_errors
from pytest_grpo.remote.project_files import TreeError
from pytest_grpo.remote.protocol import Decoder, Event, RemoteLostError, RemoteRefusedError, Request
from pytest_grpo.remote.request_builder import RequestBuilder

if TYPE_CHECKING:
    from modal import Function

CLOSE_TIMEOUT_S = 10


class ModalRemote:
    """Runs phases on ``app`` with the files of ``requests``. Contacts nothing before the first phase."""

    def __init__(self, app: ModalApp, requests: RequestBuilder, max_side_by_side: int) -> None:
        self.max_side_by_side = max_side_by_side
        self._app = app
        self._requests = requests
        self._archive: bytes | None = None
        self._background = Background()
        self._calls: set[asyncio.Task[Any]] = set()
        self._running: asyncio.Task[None] | None = None
        self._functions: dict[str, Function[..., Any, Any]] = {}
        self._is_open = asyncio.Event()
        self._is_closing = asyncio.Event()

    def start(self, request: Request) -> BackgroundCall:
        return BackgroundCall(self._background, self._stream(request))

    def spawn(self, requests: list[Request]) -> dict[int, str]:
        """Start phases that outlive this session. Returns the id of each phase's function call.

        Raises:
            RemoteLostError, RemoteRefusedError: as for a ``Call``.
        """
        return self._background.submit(self._spawn(requests)).result()

    def close(self) -> None:
        """Wait for the calls to end, then stop the app and all that still runs in it."""
        if self._background.is_started:
            self._background.submit(self._close()).result()
        self._background.close()

    async def _stream(self, request: Request) -> AsyncIterator[Event]:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        call_id = ""
        try:
            async with aclosing(self._events(request)) as events:
                async for event in events:
                    if event["event"] in ("begun", "end"):
                        call_id = event.get("call_id", "")
                    yield event
        except UnreachableError as error:
            if not await is_reachable():
                call_id = ""
                raise RemoteLostError(str(error), may_retry=False) from error
            raise
        finally:
            if call_id:
                await _cancel(call_id)  # a container keeps running without a listener
            self._calls.discard(task)

    async def _events(self, request: Request) -> AsyncGenerator[Event]:
        with translated_errors():
            yield _state(self._app.opening)
            await self._open()
            function = self._app.with_options(self._functions["run_pytest"], request.phase)
            yield _state("queued")
            decoder, has_ended = Decoder(), False
            async with aclosing(function.remote_gen.aio(request.to_json(), self._files())) as texts:
                async for text in texts:
                    for event in decoder.decode(text.split("\n")):
                        has_ended = event["event"] == "end"
                        yield event
            if not has_ended:
                raise RemoteLostError("its container was replaced")

    async def _spawn(self, requests: list[Request]) -> dict[int, str]:
        started = {}
        with translated_errors():
            async with self._app.running(detach=True) as functions:
                for request in requests:
                    function = self._app.with_options(functions["record_pytest"], request.phase)
                    call = await function.spawn.aio(request.to_json(), self._files())
                    started[request.phase] = call.object_id
        return started

    async def _open(self) -> None:
        """Open the app, at the first call or after a failed attempt."""
        if self._running is None or (self._running.done() and not self._is_open.is_set()):
            self._running = asyncio.create_task(self._hold_open())
            self._running.add_done_callback(_mark_retrieved)
        opened = asyncio.create_task(self._is_open.wait())
        await asyncio.wait({self._running, opened}, return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        if self._running.done():
            self._running.result()  # raises why it failed or ended

    async def _hold_open(self) -> None:
        async with self._app.running(detach=False) as self._functions:
            self._is_open.set()
            await self._is_closing.wait()

    async def _close(self) -> None:
        if self._calls:
            await asyncio.wait(self._calls, timeout=CLOSE_TIMEOUT_S)
        self._is_closing.set()
        if self._running is not None:
            if not self._is_open.is_set():
                self._running.cancel()
            await asyncio.wait({self._running}, timeout=CLOSE_TIMEOUT_S)

    def _files(self) -> bytes:
        if self._archive is None:
            try:
                self._archive = self._requests.archive()
            except TreeError as error:
                raise RemoteRefusedError(f"--modal: {error}") from error
        return self._archive


def _mark_retrieved(ended: asyncio.Task[None]) -> None:
    """Retrieve the exception, so that asyncio does not log it: the interrupted phases report it."""
    if not ended.cancelled():
        ended.exception()


async def _cancel(call_id: str) -> None:
    from modal import FunctionCall
    from modal.exception import Error

    with suppress(Error, OSError, TimeoutError):
        call = FunctionCall.from_id(call_id)
        await asyncio.wait_for(call.cancel.aio(terminate_containers=True), CLOSE_TIMEOUT_S)


def _state(text: str) -> Event:
    return {"event": "state", "text": text}
