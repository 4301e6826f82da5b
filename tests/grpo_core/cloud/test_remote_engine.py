"""A remote engine answers as the engine it asks, and asks once more when that was lost."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from grpo_core.cloud.engine_service import ReadyVersion
from grpo_core.cloud.remote_engine import RemoteEngine
from grpo_core.errors import EngineError, GrpoError, PromptError
from grpo_core.rollout.protocol import AdapterSwap, GenerationRequest, SamplingParams, run_requests
from grpo_core.types import Completion


class Lost(Exception):
    """The engine's machine is gone."""


class There:
    """The other side: answers with the seed as the one token, and is lost as often as it is told to."""

    def __init__(self, num_losses: int = 0) -> None:
        self.num_losses = num_losses
        self.calls: list[tuple[list[int], int]] = []

    def sample(self, requests: list[GenerationRequest], version: int) -> list[Completion | GrpoError]:
        self.calls.append(([request.sampling.seed for request in requests], version))
        if self.num_losses:
            self.num_losses -= 1
            raise Lost("preempted")
        return [self._answer(request, version) for request in requests]

    def prepare(self, version: int) -> ReadyVersion:
        return ReadyVersion(
            AdapterSwap(version, cache_hit=version == 2, load_ms=1.0, swap_ms=0.0), "model", version == 1
        )

    def _answer(self, request: GenerationRequest, version: int) -> Completion | GrpoError:
        if not len(request.prompt_ids):
            return PromptError("empty")
        return Completion(
            prompt_ids=request.prompt_ids,
            completion_ids=np.array([request.sampling.seed], np.int32),
            completion_mask=np.array([True]),
            sampling_logprobs=np.zeros(1, np.float32),
            policy_version=version,
            temperature=1.0,
            finish_reason="stop",
        )


def connect(there: There) -> RemoteEngine:
    return RemoteEngine("run", there.sample, there.prepare, lambda error: isinstance(error, Lost))


def request(seed: int, prompt: tuple[int, ...] = (1, 2), version: int | None = None) -> GenerationRequest:
    return GenerationRequest(np.array(prompt, np.int32), SamplingParams(seed), policy_version=version)


def test_requests_go_out_by_prompt_and_version_and_come_back_in_order():
    there = There()
    engine = connect(there)
    engine.use_version(1)

    results = run_requests(engine, [request(1), request(2, (3,)), request(3), request(4, version=7), request(5, ())])

    tokens = [int(one.completion_ids[0]) if isinstance(one, Completion) else str(one) for one in results]
    assert tokens == [1, 2, 3, 4, "empty"]
    assert sorted(there.calls) == [([1, 3], 1), ([2], 1), ([4], 7), ([5], 1)]
    assert (engine.counters.num_requests, engine.counters.num_failed) == (5, 1)
    engine.close()


def test_a_lost_engine_is_asked_once_more(caplog: pytest.LogCaptureFixture):
    there = There(num_losses=1)
    engine = connect(there)

    (completion,) = engine.generate([request(9)])

    assert completion.completion_ids.tolist() == [9]
    assert len(there.calls) == 2
    assert engine.num_asked_again == 1
    assert "its requests are asked again" in caplog.text


def test_an_engine_lost_twice_is_an_error():
    there = There(num_losses=2)

    with pytest.raises(EngineError, match="lost twice over the same requests: preempted"):
        connect(there).generate([request(9)])
    assert len(there.calls) == 2


def test_cancelled_requests_are_not_answered():
    there = There()
    engine = connect(there)
    first, second = engine.submit(request(1)), engine.submit(request(2))
    engine.cancel(first)

    assert [outcome.ticket for outcome in engine.step()] == [second]
    assert engine.step() == []
    assert there.calls == [([2], 0)]


def test_a_version_in_memory_there_is_logged_here(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "grpo_core.cloud")
    engine = connect(There())

    assert engine.use_version(1).cache_hit is False
    assert "already cached" not in caplog.text
    assert engine.use_version(2).cache_hit is True
    assert "Adapter already cached locally: run-v000002" in caplog.text
    assert (engine.policy_version, engine.model_fingerprint, engine.scores_in_one_pass) == (2, "model", False)
