"""Requests that fail, and their neighbours, which notice nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from grpo_core.errors import AdapterNotFoundError, CapacityError, ConstraintError, PromptError, SamplingError
from grpo_core.model.policy import Policy
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams, run_requests
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Completion
from tests.grpo_core.rollout.torch_engine.bench import Bench
from tests.grpo_core.rollout.torch_engine.completions import assert_same, completion_of
from tests.grpo_core.rollout.torch_engine.sampling_requests import prompt, request

MakeBench = Callable[..., Bench]


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (request(np.zeros(0, dtype=np.int32)), "prompt of 0 tokens"),
        (request(prompt(0, 2040), max_tokens=9), "prompt of 2040 tokens and up to 9 to generate.*context is 2048"),
    ],
)
def test_a_bad_prompt_costs_only_its_own_request(bad: GenerationRequest, match: str, make_bench: MakeBench) -> None:
    bench = make_bench()
    good = request(prompt(0, 4))
    expected = make_bench().engine.generate([good])[0]
    with pytest.raises(PromptError, match=match):
        bench.engine.generate([good, bad])

    first, error, second = run_requests(bench.engine, [good, bad, good])
    assert isinstance(error, PromptError)
    for result in (first, second):
        assert isinstance(result, Completion)
        assert_same(result, expected, tolerance=1e-5)
    assert bench.engine.counters.num_failed == 2


MakeEngine = Callable[..., TorchEngine]


def test_each_request_fails_for_itself(make_engine: MakeEngine) -> None:
    engine = make_engine(max_kv_bytes=400 * 1024)
    good = request(prompt(0, 30), 3)
    (expected,) = make_engine().generate([good])
    per_token = engine.num_kv_bytes_per_token
    bad = [
        (request(np.zeros(0, dtype=np.int32)), PromptError),
        (request(prompt(0, 2045)), PromptError),
        (request(prompt(0, 4), max_tokens=0), PromptError),
        (request(np.array([1, 99999], dtype=np.int32)), PromptError),
        (request(np.array([1, -1], dtype=np.int32)), PromptError),
        (request(prompt(0, 4), version=9), AdapterNotFoundError),
        (request(prompt(0, 400 * 1024 // per_token), max_tokens=2), CapacityError),
        (GenerationRequest(prompt(0, 4), SamplingParams(0, temperature=0.0)), SamplingError),
        (GenerationRequest(prompt(0, 4), SamplingParams(0, temperature=-1.0)), SamplingError),
    ]

    requests = [each for item, _ in bad for each in (good, item)]
    results = run_requests(engine, requests)

    for result in results[::2]:
        assert_same(completion_of(result), expected)
    for result, (_, kind) in zip(results[1::2], bad, strict=True):
        assert isinstance(result, kind)
        assert "\n" not in str(result)
    assert engine.counters.num_failed == len(bad)
    assert_same(engine.generate([good])[0], expected)


class Exhausted:
    """A constraint that has no continuation after its first token."""

    max_tokens = None

    def start(self) -> Exhausted:
        self.num = 0
        return self

    finished = False

    def allowed(self) -> list[int]:
        return [5, 6] if self.num == 0 else []

    def advance(self, token: int) -> None:
        self.num += 1


def test_a_constraint_without_continuation_costs_only_its_request(make_engine: MakeEngine) -> None:
    good = request(prompt(0, 30), 3)
    (expected,) = make_engine().generate([good])
    bad = GenerationRequest(prompt(1, 5), SamplingParams(0), Exhausted())

    first, error, second = run_requests(make_engine(), [good, bad, good])

    assert isinstance(error, ConstraintError)
    assert "no continuation" in str(error)
    for result in (first, second):
        assert_same(completion_of(result), expected)


def test_logits_that_are_not_numbers_cost_only_their_request(make_engine: MakeEngine, policy: Policy) -> None:
    good = [request(prompt(seed, 30), seed) for seed in range(3)]
    expected = make_engine().generate(good)
    poison = 319
    assert all(poison not in each.prompt_ids for each in good)
    engine = make_engine()
    assert isinstance(policy.head, torch.nn.Linear)
    embedding = engine.base_weights.embedding
    saved = embedding[poison].clone()
    if embedding.data_ptr() == policy.head.weight.data_ptr():
        pytest.skip("tied embeddings: a poisoned row is a poisoned head")
    embedding[poison] = float("nan")
    try:
        bad = request(np.array([1, poison, 2], dtype=np.int32))
        results = run_requests(engine, [good[0], bad, good[1]])
        assert isinstance(results[1], SamplingError)
        assert_same(completion_of(results[0]), expected[0])
        assert_same(completion_of(results[2]), expected[1])
        assert_same(engine.generate([good[2]])[0], expected[2])  # in the slot that the bad one had
    finally:
        embedding[poison] = saved
