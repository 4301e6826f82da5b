"""Requests that fail, and their neighbours, which notice nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_core.errors import AdapterNotFoundError, CapacityError, ConstraintError, PromptError, SamplingError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.plain_engine.engine import PlainEngine
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


class Fails(Exhausted):
    """A constraint of a user that breaks at one call."""

    def __init__(self, where: str, error: Exception) -> None:
        self._where, self._error = where, error

    def _call(self, name: str) -> None:
        if name == self._where:
            raise self._error

    def start(self) -> Fails:
        self._call("start")
        self.num = 0
        return self

    @property
    def finished(self) -> bool:
        self._call("finished")
        return False

    def allowed(self) -> list[int]:
        self._call("allowed")
        return [5, 6]

    def advance(self, token: int) -> None:
        self._call("advance")


@pytest.mark.parametrize("error", [ConstraintError("no line is left"), KeyError(3), RecursionError("too deep")])
@pytest.mark.parametrize("where", ["start", "allowed", "advance", "finished"])
@pytest.mark.parametrize("kind", [TorchEngine, PlainEngine])
def test_whatever_a_constraint_raises_costs_only_its_request(
    kind: type, where: str, error: Exception, make_engine: MakeEngine, policy: Policy, tmp_path: Path
) -> None:
    engine = make_engine()
    if kind is PlainEngine:
        engine = PlainEngine(policy, (0,), LoRACache(AdapterStore(tmp_path), 1 << 20, 1), "run")
    good = request(prompt(0, 30), 3)
    (expected,) = engine.generate([good])
    bad = GenerationRequest(prompt(1, 5), SamplingParams(0), Fails(where, error))

    first, failed, second = run_requests(engine, [good, bad, good])

    assert isinstance(failed, ConstraintError)
    assert "\n" not in str(failed)
    for result in (first, second):
        assert completion_of(result).completion_ids.tolist() == expected.completion_ids.tolist()
    assert engine.counters.num_failed == 1


@pytest.mark.parametrize("ids", [(-1, 5), (5, 384), (384,), (5, 1 << 30)])
@pytest.mark.parametrize("kind", [TorchEngine, PlainEngine])
def test_ids_that_the_model_does_not_have_are_that_requests_error(
    kind: type, ids: tuple[int, ...], make_engine: MakeEngine, policy: Policy, tmp_path: Path
) -> None:
    """Compiled code would read foreign memory."""
    engine = make_engine()
    if kind is PlainEngine:
        engine = PlainEngine(policy, (0,), LoRACache(AdapterStore(tmp_path), 1 << 20, 1), "run")
    assert policy.vocab_size == 384
    constraint = LineConstraint((tuple((token, 7) for token in ids),))
    good = request(prompt(0, 30), 3)

    results = run_requests(engine, [good, replace(good, constraint=constraint)])

    completion_of(results[0])
    assert isinstance(results[1], ConstraintError)
    assert "the model's ids are 0 to 383" in str(results[1])


def test_a_distinct_constraint_that_runs_out_of_lines_costs_only_its_request(make_engine: MakeEngine) -> None:
    good = request(prompt(0, 30), 3)
    lines = ((11, 7),)

    results = run_requests(make_engine(), [good, replace(good, constraint=LineConstraint((lines, lines), True)), good])

    assert [isinstance(result, ConstraintError) for result in results] == [False, True, False]


def test_no_memory_for_scoring_or_decoding_is_an_error_of_these_requests(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    good = request(prompt(0, 30), 3)

    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("12 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(engine._passes, "over_rows", no_memory)
        results = run_requests(engine, [good, good])
    assert all(isinstance(result, CapacityError) for result in results)
    assert engine.num_under_way == 0
    completion_of(run_requests(engine, [good])[0])


@pytest.mark.parametrize("num_draws", [0, 2])
@pytest.mark.parametrize("part", ["compiled_draw", "over_head"])
def test_no_memory_for_a_draw_is_an_error_of_these_requests(
    part: str, num_draws: int, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    good = request(prompt(0, 30), 6)
    expected = completion_of(run_requests(engine, [good])[0])
    engine.forget_prompts()
    num_bytes = engine.num_kv_bytes
    real, num_calls = getattr(engine._passes, part), 0

    def no_memory_once(*arguments: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == num_draws + 1:
            raise torch.OutOfMemoryError("12 GiB")
        return real(*arguments)

    monkeypatch.setattr(engine._passes, part, no_memory_once)
    results = run_requests(engine, [good, good])

    assert all(isinstance(result, CapacityError) and "drawing a token" in str(result) for result in results)
    assert engine.num_under_way == 0
    engine.forget_prompts()
    assert engine.num_kv_bytes == num_bytes
    assert_same(completion_of(run_requests(engine, [good])[0]), expected)
