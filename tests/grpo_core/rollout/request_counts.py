"""One definition of an engine's request counters, for the tests of every engine."""

from __future__ import annotations

import numpy as np

from grpo_core.rollout.protocol import EngineCounters, GenerationRequest, RolloutEngine, SamplingParams

PROMPT = np.arange(40, 70, dtype=np.int32)


def check_request_counts(engine: RolloutEngine) -> None:
    """Submit two requests that succeed, one that fails and one that is cancelled: all four count, each once."""
    before = engine.counters

    def added() -> EngineCounters:
        return engine.counters - before

    sampling = SamplingParams(0, max_tokens=3, ignore_stop=True)
    good, other, cancelled = (engine.submit(GenerationRequest(PROMPT, sampling)) for _ in range(3))
    bad = engine.submit(GenerationRequest(PROMPT[:0], sampling))
    assert added().num_requests == 4  # before any of them has ended

    engine.cancel(cancelled)
    left = {good, other, bad}
    while left:
        left -= {outcome.ticket for outcome in engine.step()}
    for ticket in (good, bad, cancelled, bad + 100):  # neither under way nor counted again
        engine.cancel(ticket)

    assert (added().num_requests, added().num_failed, added().num_cancelled) == (4, 1, 1)
    assert added().num_completion_tokens == 2 * 3
