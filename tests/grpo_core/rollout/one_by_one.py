"""An engine whose requests end in the order of their submission."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grpo_core.rollout.protocol import (
    AdapterSwap,
    EngineCounters,
    GenerationRequest,
    Outcome,
    RolloutEngine,
    run_requests,
)
from grpo_core.types import Completion


class OneByOne:
    """The engine ``inner``, which begins no request before the one in front of it has ended."""

    def __init__(self, inner: RolloutEngine) -> None:
        self.inner = inner
        self.waiting: dict[int, GenerationRequest] = {}
        self.submitted: list[GenerationRequest] = []
        self.cancelled: list[int] = []
        self.num_steps = 0
        self.round_sizes: list[int] = []  # requests that waited whenever a first one was stepped
        self.on_step: Callable[[], None] = lambda: None

    @property
    def policy_version(self) -> int:
        return self.inner.policy_version

    @property
    def counters(self) -> EngineCounters:
        return self.inner.counters

    def use_version(self, number: int) -> AdapterSwap:
        return self.inner.use_version(number)

    def submit(self, request: GenerationRequest) -> int:
        self.submitted.append(request)
        self.waiting[len(self.submitted)] = request
        return len(self.submitted)

    def step(self) -> list[Outcome]:
        if len(self.submitted) > sum(self.round_sizes):
            self.round_sizes.append(len(self.submitted) - sum(self.round_sizes))
        self.num_steps += 1
        self.on_step()
        if not self.waiting:
            return []
        ticket = next(iter(self.waiting))
        return [Outcome(ticket, run_requests(self.inner, [self.waiting.pop(ticket)])[0])]

    def cancel(self, ticket: int) -> None:
        if self.waiting.pop(ticket, None) is not None:
            self.cancelled.append(ticket)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        raise AssertionError("a collector submits")
