"""Completions as asynchronous streams: tokens as they are drawn, from an engine in its own thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from grpo_core.errors import GrpoError
from grpo_core.rollout.protocol import AdapterSwap, GenerationRequest, LocalEngine, Outcome
from grpo_core.types import Completion


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens that were drawn since the last item. The last item has the ``completion``."""

    tokens: tuple[int, ...]
    completion: Completion | None = None


@dataclass(slots=True)
class _Listener:
    queue: asyncio.Queue[Progress | BaseException]
    num_sent: int = 0


class StreamingEngine:
    """Streams from ``engine``, which nothing else may use until this object is closed. ``async with`` closes it.

    At most ``max_requests`` are under way; more wait in ``stream`` until one ends. Leaving a stream early cancels the
    request and frees what it held.
    """

    def __init__(self, engine: LocalEngine, *, max_requests: int = 1024) -> None:
        assert max_requests > 0
        self._engine = engine
        self._slots = asyncio.Semaphore(max_requests)
        self._listeners: dict[int, _Listener] = {}
        self._orders: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._driver: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollout-engine")

    async def __aenter__(self) -> StreamingEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for ticket in list(self._listeners):
                await self._order(lambda ticket=ticket: self._engine.cancel(ticket))
                if (listener := self._listeners.pop(ticket, None)) is not None:  # else it has ended meanwhile
                    self._tell(listener, asyncio.CancelledError("the engine was closed"))
            if self._driver is not None:
                await self._driver
        finally:
            self._thread.shutdown()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Progress]:
        """Tokens of ``request`` as they come; the last item has the completion. Use it in ``aclosing``.

        Raises:
            GrpoError: what is wrong with this request, as ``RolloutEngine.generate``.
        """
        async with self._slots:
            listener = _Listener(asyncio.Queue())
            order = self._order(lambda: self._listen(request, listener))
            try:
                ticket = await order
            except asyncio.CancelledError:  # perhaps after it was submitted
                if order.done() and not order.cancelled() and order.exception() is None:
                    self._drop(order.result())
                raise
            try:
                while True:
                    item = await listener.queue.get()
                    if isinstance(item, BaseException):
                        raise item
                    yield item
                    if item.completion is not None:
                        return
            finally:
                self._drop(ticket)

    def _drop(self, ticket: int) -> None:
        """Cancel the request, unless it has ended."""
        if self._listeners.pop(ticket, None) is not None:
            self._order(lambda: self._engine.cancel(ticket))

    async def complete(self, request: GenerationRequest) -> Completion:
        """The whole completion of ``request``. Raises as ``stream``."""
        async with aclosing(self.stream(request)) as items:
            async for item in items:
                if item.completion is not None:
                    return item.completion
        raise AssertionError("a stream ends with its completion or raises")

    async def use_version(self, number: int) -> AdapterSwap:
        """As ``RolloutEngine.use_version``, between two steps."""
        return await self._order(lambda: self._engine.use_version(number))

    def _listen(self, request: GenerationRequest, listener: _Listener) -> int:
        ticket = self._engine.submit(request)
        self._listeners[ticket] = listener
        return ticket

    def _order(self, what: Callable[[], Any]) -> asyncio.Future[Any]:
        """Let the driver call ``what`` between two steps, when nothing else uses the engine."""
        future = asyncio.get_running_loop().create_future()
        self._orders.append((what, future))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        return future

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        while self._orders or self._listeners:
            orders, self._orders = self._orders, []
            for what, future in orders:
                _fulfil(what, future)
            if not self._listeners:
                continue
            try:
                outcomes, drawn = await loop.run_in_executor(self._thread, self._step)
            except Exception as error:  # whatever broke the engine, its listeners must not wait forever
                for ticket, listener in list(self._listeners.items()):
                    self._drop(ticket)
                    self._tell(listener, error)
                continue
            self._report(outcomes, drawn)

    def _step(self) -> tuple[list[Outcome], dict[int, list[int]]]:
        outcomes = self._engine.step()
        return outcomes, self._engine.drawn_tokens()

    def _report(self, outcomes: list[Outcome], drawn: dict[int, list[int]]) -> None:
        for ticket, tokens in drawn.items():
            listener = self._listeners.get(ticket)
            if listener is not None and len(tokens) > listener.num_sent:
                self._tell(listener, Progress(tuple(tokens[listener.num_sent :])))
                listener.num_sent = len(tokens)
        for outcome in outcomes:
            listener = self._listeners.pop(outcome.ticket, None)
            if listener is None:
                continue
            if isinstance(outcome.result, GrpoError):
                self._tell(listener, outcome.result)
            else:
                rest = tuple(outcome.result.completion_ids[listener.num_sent :].tolist())
                self._tell(listener, Progress(rest, outcome.result))

    def _tell(self, listener: _Listener, item: Progress | BaseException) -> None:
        listener.queue.put_nowait(item)


def _fulfil(what: Callable[[], Any], future: asyncio.Future[Any]) -> None:
    if future.cancelled():
        return
    try:
        result = what()
    except Exception as error:  # raised where the caller awaits the future
        future.set_exception(error)
    else:
        future.set_result(result)
