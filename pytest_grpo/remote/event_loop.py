"""An event loop in a background thread, so that threads can wait for coroutines."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

from pytest_grpo.remote.protocol import Event, RemoteLostError


class Background:
    """An event loop in a thread that starts with the first coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="grpo-background", daemon=True)
        self._lock = threading.Lock()
        self.is_started = False

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        with self._lock:
            if not self.is_started:
                self.is_started = True
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Cancel the running coroutines and stop the thread."""
        if self.is_started:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())


class BackgroundCall:
    """A ``remote.protocol.Call`` with events from a coroutine in the background."""

    def __init__(self, background: Background, stream: AsyncIterator[Event]) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._future = background.submit(self._pump(stream))
        self._future.add_done_callback(lambda _: self._events.put(None))

    def __iter__(self) -> Iterator[Event]:
        while (event := self._events.get()) is not None:
            yield event
        if self._future.cancelled():
            raise RemoteLostError("it was cancelled", may_retry=False)
        self._future.result()

    def cancel(self) -> None:
        self._future.cancel()

    async def _pump(self, stream: AsyncIterator[Event]) -> None:
        async for event in stream:
            self._events.put(event)
