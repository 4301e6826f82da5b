"""Fetches the records of ``ExactSampler`` from vLLM's process, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from grpo_core.rollout.vllm_engine.task import ReceivedRecord

TakeRecords = Callable[[list[int]], Coroutine[Any, Any, Sequence[Mapping[str, Any]]]]


class RecordFetcher:
    """``take`` returns a packed record per ticket, and vLLM's process deletes it. One event loop uses this object."""

    def __init__(self, take: TakeRecords) -> None:
        self._take = take
        self._wanted: list[tuple[int, asyncio.Future[ReceivedRecord] | None]] = []
        self._fetching: asyncio.Task[None] | None = None

    async def fetch(self, ticket: int) -> ReceivedRecord:
        """Raises as ``take``."""
        future: asyncio.Future[ReceivedRecord] = asyncio.get_running_loop().create_future()
        self._want([(ticket, future)])
        return await future

    def forget(self, *tickets: int) -> None:
        """Delete the records of ``tickets`` in vLLM's process."""
        self._want([(ticket, None) for ticket in tickets])

    def _want(self, wanted: Sequence[tuple[int, asyncio.Future[ReceivedRecord] | None]]) -> None:
        self._wanted.extend(wanted)
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch_all())

    async def _fetch_all(self) -> None:
        while self._wanted:
            batch, self._wanted = self._wanted, []
            answer = asyncio.get_running_loop().create_task(self._take([ticket for ticket, _ in batch]))
            await asyncio.wait({answer})
            error = answer.exception()
            for place, (_, future) in enumerate(batch):
                if future is None or future.done():  # forgotten, or its job was cancelled
                    continue
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(ReceivedRecord.unpack(answer.result()[place]))
