"""Records come back in as few calls as there can be. vLLM is not needed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from grpo_core.errors import EngineError
from grpo_core.rollout.vllm_engine.records import RecordFetcher
from grpo_core.rollout.vllm_engine.task import Record


def packed(ticket: int) -> dict[str, Any]:
    record = Record()
    record.add(0, -float(ticket))
    return record.pack()


def test_what_is_wanted_during_a_call_goes_together_in_the_next() -> None:
    calls: list[list[int]] = []

    async def take(tickets: list[int]) -> list[dict[str, Any]]:
        calls.append(tickets)
        await asyncio.sleep(0.01)
        return [packed(ticket) for ticket in tickets]

    async def fetch() -> list[float]:
        fetcher = RecordFetcher(take)
        first = asyncio.create_task(fetcher.fetch(1))
        while not calls:
            await asyncio.sleep(0)
        fetcher.forget(7, -7)
        together = await asyncio.gather(first, fetcher.fetch(2), fetcher.fetch(3))
        readings = [*together, await fetcher.fetch(4)]
        return [float(reading.logprobs[0]) for reading in readings]

    assert asyncio.run(fetch()) == [-1, -2, -3, -4]
    assert calls == [[1], [7, -7, 2, 3], [4]]


def test_an_error_of_a_call_reaches_all_that_wait_for_it_and_no_other() -> None:
    async def take(tickets: list[int]) -> list[dict[str, Any]]:
        if 1 in tickets:
            raise EngineError("dead")
        return [packed(ticket) for ticket in tickets]

    async def fetch() -> None:
        fetcher = RecordFetcher(take)
        for result in await asyncio.gather(fetcher.fetch(1), fetcher.fetch(2), return_exceptions=True):
            assert isinstance(result, EngineError)
        assert (await fetcher.fetch(3)).logprobs[0] == -3

    asyncio.run(fetch())


def test_who_is_cancelled_meanwhile_costs_nobody_an_answer() -> None:
    async def take(tickets: list[int]) -> list[dict[str, Any]]:
        await asyncio.sleep(0.01)
        return [packed(ticket) for ticket in tickets]

    async def fetch() -> None:
        fetcher = RecordFetcher(take)
        one, two = (asyncio.create_task(fetcher.fetch(ticket)) for ticket in (1, 2))
        await asyncio.sleep(0)
        one.cancel()
        assert (await two).logprobs[0] == -2
        with pytest.raises(asyncio.CancelledError):
            await one

    asyncio.run(fetch())
