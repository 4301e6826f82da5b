from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.errors import AdapterNotFoundError, PromptError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.rollout.protocol import GenerationRequest, Outcome, SamplingParams
from grpo_core.rollout.streaming import StreamingEngine
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Adapter, Completion


@pytest.fixture
def engine(policy: Policy, make_adapter: Callable[..., Adapter], tmp_path: Path) -> TorchEngine:
    store = AdapterStore(tmp_path / "adapters")
    store.publish(make_adapter(policy, number=1))
    return TorchEngine(policy, (-1,), LoRACache(store, 1 << 20, 2), "run")


def request(seed: int, *, length: int = 20, max_tokens: int = 12) -> GenerationRequest:
    ids = np.random.default_rng(seed).integers(1, 300, length, dtype=np.int32)
    return GenerationRequest(ids, SamplingParams(seed, max_tokens=max_tokens))


def run(what: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(what, timeout=60))


def test_streams_bring_the_tokens_of_generate_as_they_are_drawn(engine: TorchEngine) -> None:
    requests = [request(seed, max_tokens=5 + seed) for seed in range(4)]
    expected = engine.generate(requests)
    pieces: list[list[int]] = [[] for _ in requests]
    ends: list[Completion | None] = [None for _ in requests]

    async def listen(streams: StreamingEngine, index: int) -> None:
        async with aclosing(streams.stream(requests[index])) as items:
            async for item in items:
                pieces[index].extend(item.tokens)
                assert ends[index] is None
                ends[index] = item.completion
                assert len(item.tokens) < 5  # not all at the end

    async def main() -> None:
        async with StreamingEngine(engine) as streams:
            await asyncio.gather(*(listen(streams, index) for index in range(len(requests))))

    run(main())
    for tokens, end, completion in zip(pieces, ends, expected, strict=True):
        assert end is not None
        assert tokens == end.completion_ids.tolist() == completion.completion_ids.tolist()


def test_leaving_a_stream_cancels_its_request(engine: TorchEngine) -> None:
    async def main() -> None:
        async with StreamingEngine(engine) as streams:
            async with aclosing(streams.stream(request(0, max_tokens=500))) as items:
                async for item in items:
                    if item.tokens:
                        break
            await streams.complete(request(1))
            assert engine.num_under_way == 0

    run(main())
    assert engine.counters.num_cancelled == 1
    assert engine.counters.num_completion_tokens == 12


def test_at_most_max_requests_are_under_way(engine: TorchEngine) -> None:
    most = 0

    async def main() -> None:
        nonlocal most
        async with StreamingEngine(engine, max_requests=2) as streams:
            waiting = [asyncio.create_task(streams.complete(request(seed))) for seed in range(6)]
            while not all(task.done() for task in waiting):
                most = max(most, engine.counters.num_requests - sum(task.done() for task in waiting))
                await asyncio.sleep(0)
            assert [len((await task).completion_ids) for task in waiting] == [12] * 6

    run(main())
    assert most == 2


def test_an_error_reaches_its_own_stream_only(engine: TorchEngine) -> None:
    async def main() -> None:
        async with StreamingEngine(engine) as streams:
            good = asyncio.create_task(streams.complete(request(0)))
            with pytest.raises(PromptError, match="prompt of 0 tokens"):
                await streams.complete(request(1, length=0))
            with pytest.raises(AdapterNotFoundError):
                await streams.use_version(7)
            assert len((await good).completion_ids) == 12

    run(main())


def test_a_version_can_be_swapped_in_while_streams_run(engine: TorchEngine) -> None:
    async def main() -> None:
        async with StreamingEngine(engine) as streams:
            async with aclosing(streams.stream(request(0, max_tokens=100))) as items:
                first = await anext(items)
                swap = await streams.use_version(1)
                assert (first.completion, swap.policy_version) == (None, 1)
                versions = [item.completion.policy_version async for item in items if item.completion is not None]
            assert versions == [0]
            assert (await streams.complete(request(1))).policy_version == 1

    run(main())


def test_closing_ends_every_stream(engine: TorchEngine) -> None:
    async def main() -> None:
        async with StreamingEngine(engine) as streams:
            task = asyncio.create_task(streams.complete(request(0, max_tokens=1000)))
            while not engine.drawn_tokens():
                await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError, match="closed"):
            await task

    run(main())
    assert engine.num_under_way == 0


def test_a_stream_that_ends_while_the_engine_is_closed_has_its_completion(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step under way ends the request that is about to be cancelled."""
    original = engine.step
    is_stepping = threading.Event()

    async def main() -> None:
        async with StreamingEngine(engine) as streams:

            def step_to_the_end() -> list[Outcome]:
                is_stepping.set()
                deadline_s = time.monotonic() + 30
                while not streams._orders and time.monotonic() < deadline_s:  # until the engine is being closed
                    time.sleep(0.001)
                outcomes = original()
                while engine.num_under_way:
                    outcomes += original()
                return outcomes

            monkeypatch.setattr(engine, "step", step_to_the_end)
            task = asyncio.create_task(streams.complete(request(0)))
            assert await asyncio.to_thread(is_stepping.wait, 30)
        assert len((await task).completion_ids) == 12
        assert streams._thread._shutdown

    run(main())


def test_a_broken_engine_tells_every_stream(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    async def main() -> None:
        async with StreamingEngine(engine) as streams:
            monkeypatch.setattr(engine, "step", broken)
            results = await asyncio.gather(*map(streams.complete, [request(0), request(1)]), return_exceptions=True)
            assert [str(result) for result in results] == ["broken", "broken"]

    run(main())
    assert engine.num_under_way == 0


def test_a_request_that_is_cancelled_as_it_is_submitted_does_not_run_on(engine: TorchEngine) -> None:
    """The ticket is there, and nobody has taken it yet."""

    async def main() -> None:
        async with StreamingEngine(engine) as streams:
            task = asyncio.create_task(streams.complete(request(0, max_tokens=1000)))
            submit = engine.submit

            def submit_and_cancel(wanted: GenerationRequest) -> int:
                ticket = submit(wanted)
                asyncio.get_running_loop().call_soon(task.cancel)
                return ticket

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine, "submit", submit_and_cancel)
                with pytest.raises(asyncio.CancelledError):
                    await task
            await streams.complete(request(1))
            assert engine.num_under_way == 0

    run(main())
