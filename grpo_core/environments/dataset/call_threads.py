"""The threads in which reward functions run. They live as long as the process: what a module opens once, such as a
client, a lock or a connection to a database, may belong to the thread or to the event loop that opened it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")
_Work = tuple[Callable[[], Any], "Future[Any]"]


class StillRunningError(Exception):
    """A call took longer than it may. It cannot be ended: its thread is left behind, and ends with the process."""


class CallThread:
    """Runs one call after the other. After one that takes too long the next one gets another thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._queue: SimpleQueue[_Work] | None = None

    def run(self, work: Callable[[], Result], timeout_s: float) -> Result:
        """What ``work`` returns or raises.

        Raises:
            StillRunningError: it takes longer than ``timeout_s``.
        """
        with self._guard:
            if self._queue is None:
                self._queue = SimpleQueue()
                threading.Thread(target=_serve, args=(self._queue,), name="reward", daemon=True).start()
            future: Future[Result] = Future()
            self._queue.put((work, future))
            try:
                return future.result(timeout_s)
            except TimeoutError as error:
                if future.done():  # raised by the work
                    raise
                self._queue = None
                raise StillRunningError from error


class LoopThread:
    """Runs coroutines side by side in one event loop. After one that blocks the loop the next one gets another."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Result], timeout_s: float) -> Result:
        """What ``coroutine`` returns or raises.

        Raises:
            StillRunningError: it takes longer than ``timeout_s``.
        """
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="reward-loop", daemon=True).start()
            loop = self._loop
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            if future.done():
                raise
            with self._guard:
                if self._loop is loop:
                    self._loop = None
            raise StillRunningError from error


def _serve(queue: SimpleQueue[_Work]) -> None:
    while True:
        work, future = queue.get()
        try:
            future.set_result(work())
        except BaseException as error:  # SystemExit of the user's code, too
            future.set_exception(error)
