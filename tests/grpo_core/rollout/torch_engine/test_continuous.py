"""Requests that join, leave, fail and change version while others decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from grpo_core.config import ModelConfig
from grpo_core.errors import AdapterNotFoundError, CapacityError, ConstraintError, GrpoError, PromptError, SamplingError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model import Policy, load_policy
from grpo_core.rollout.constraint import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams, run_requests
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Adapter, Completion, Int32

NO_STOP = -1
MakeAdapter = Callable[..., Adapter]
MakeEngine = Callable[..., TorchEngine]


@pytest.fixture
def policy(model_folder: Path) -> Policy:
    return load_policy(ModelConfig(name=str(model_folder), device="cpu"))


@pytest.fixture
def make_engine(policy: Policy, make_adapter: MakeAdapter, tmp_path: Path) -> MakeEngine:
    """Engines on one store with versions 1 to 3."""
    store = AdapterStore(tmp_path / "adapters")
    for number, targets in ((1, ("q_proj", "v_proj")), (2, ("o_proj", "up_proj")), (3, ("k_proj", "down_proj"))):
        store.publish(make_adapter(policy, number=number, targets=targets, seed=number, std=0.2))

    def make(*, stop_id: int = 0, **limits: int | bool) -> TorchEngine:
        cache = LoRACache(store, max_bytes=1 << 20, max_adapters=3)
        return TorchEngine(policy, stop_id, cache, "run", **limits)  # pyright: ignore[reportArgumentType]

    return make


def prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(1, 320, length, dtype=np.int32)


def request(
    prompt_ids: Int32, seed: int = 0, *, max_tokens: int = 8, version: int | None = None, want_ref: bool = False
) -> GenerationRequest:
    return GenerationRequest(
        prompt_ids, SamplingParams(seed, max_tokens=max_tokens), want_ref_logprobs=want_ref, policy_version=version
    )


def finish(engine: TorchEngine) -> dict[int, Completion | GrpoError]:
    results: dict[int, Completion | GrpoError] = {}
    for _ in range(500):
        outcomes = engine.step()
        results |= {outcome.ticket: outcome.result for outcome in outcomes}
        if not outcomes and not engine.num_under_way:
            return results
    raise AssertionError("the engine does not come to an end")


def completion_of(result: Completion | GrpoError) -> Completion:
    assert isinstance(result, Completion), result
    return result


def assert_same(one: Completion, other: Completion) -> None:
    assert one.completion_ids.tolist() == other.completion_ids.tolist()
    assert one.completion_mask.tolist() == other.completion_mask.tolist()
    assert (one.finish_reason, one.policy_version) == (other.finish_reason, other.policy_version)
    assert np.allclose(one.sampling_logprobs, other.sampling_logprobs, atol=2e-5, rtol=0)
    assert (one.allowed_ids is None) == (other.allowed_ids is None)
    if one.allowed_ids is not None and other.allowed_ids is not None:
        assert one.allowed_ids.ids.tolist() == other.allowed_ids.ids.tolist()
    assert (one.ref_logprobs is None) == (other.ref_logprobs is None)
    if one.ref_logprobs is not None and other.ref_logprobs is not None:
        assert np.allclose(one.ref_logprobs, other.ref_logprobs, atol=2e-5, rtol=0)


def test_requests_join_while_others_decode(make_engine: MakeEngine) -> None:
    engine = make_engine(stop_id=NO_STOP)
    requests = [request(prompt(index, 20 + 90 * (index % 3)), index, max_tokens=6 + index) for index in range(8)]
    alone = [make_engine(stop_id=NO_STOP).generate([each])[0] for each in requests]

    tickets: list[int] = []
    results: dict[int, Completion | GrpoError] = {}
    for each in requests:
        tickets.append(engine.submit(each))
        for _ in range(2):
            results |= {outcome.ticket: outcome.result for outcome in engine.step()}
    results |= finish(engine)

    for ticket, expected in zip(tickets, alone, strict=True):
        assert_same(completion_of(results[ticket]), expected)


def test_a_long_prompt_is_read_in_parts_while_others_decode(make_engine: MakeEngine) -> None:
    engine = make_engine(stop_id=NO_STOP, prefill_tokens=32)
    short, long = request(prompt(0, 10), max_tokens=20), request(prompt(1, 300), max_tokens=3)
    first = engine.submit(short)
    engine.step()
    second = engine.submit(long)
    lengths = []
    for _ in range(5):
        engine.step()
        lengths.append(len(engine.drawn_tokens()[first]))

    assert lengths == [2, 3, 4, 5, 6]
    assert second not in engine.drawn_tokens()
    results = finish(engine)
    for ticket, each in ((first, short), (second, long)):
        assert_same(completion_of(results[ticket]), make_engine(stop_id=NO_STOP).generate([each])[0])


def test_requests_under_way_keep_the_version_they_began_with(make_engine: MakeEngine) -> None:
    engine = make_engine(stop_id=NO_STOP)
    requests = [request(prompt(index, 100), index, max_tokens=12, want_ref=index % 2 == 0) for index in range(2)]
    expected = []
    for number in (1, 2, 3):
        fresh = make_engine(stop_id=NO_STOP)
        fresh.use_version(number)
        expected.append(fresh.generate(requests))

    tickets = []
    for number in (1, 2, 3):
        engine.use_version(number)
        tickets.append([engine.submit(each) for each in requests])
        for _ in range(3):
            engine.step()
    results = finish(engine)

    for number, ids, completions in zip((1, 2, 3), tickets, expected, strict=True):
        for ticket, completion in zip(ids, completions, strict=True):
            result = completion_of(results[ticket])
            assert result.policy_version == number
            assert_same(result, completion)


def test_requests_of_several_versions_share_a_batch(make_engine: MakeEngine) -> None:
    """The active version is merged, the others are low-rank updates of some rows of one pass."""
    prompts = [prompt(seed, 70) for seed in range(2)]
    requests = [request(ids, seed, version=version) for ids in prompts for seed in (1, 2) for version in (3, 0, 2, 1)]
    expected = []
    for each in requests:
        fresh = make_engine()
        assert each.policy_version is not None
        fresh.use_version(each.policy_version)
        expected.append(fresh.generate([each])[0])
    engine = make_engine()
    engine.use_version(2)

    for result, completion in zip(engine.generate(requests), expected, strict=True):
        assert_same(result, completion)
    assert engine.counters.num_adapter_swaps == 1
    assert engine.counters.num_decode_steps <= 2 * 8


def test_a_swap_leaves_nothing_stale(make_engine: MakeEngine) -> None:
    engine = make_engine()
    item = request(prompt(0, 200))
    results = []
    for number in (1, 2, 1):
        engine.use_version(number)
        before = engine.counters.num_prefill_tokens
        engine.generate([item])
        results.append(engine.generate([item])[0].sampling_logprobs)
        assert engine.counters.num_prefill_tokens - before == 200  # read anew for each version, once
    assert np.abs(results[0] - results[1]).max() > 0.01
    assert np.array_equal(results[0], results[2])


def test_a_prompt_is_computed_once_across_groups_turns_and_calls(make_engine: MakeEngine) -> None:
    engine = make_engine()
    first = prompt(0, 160)
    longer = np.concatenate([first, prompt(1, 30)])
    other = np.concatenate([first[:96], prompt(2, 70)])
    expected = [make_engine().generate([request(ids, 5)])[0] for ids in (first, longer, other, first[:96])]

    computed = []
    for ids in (first, longer, other, first[:96], first):
        before = engine.counters
        completions = engine.generate([request(ids, seed) for seed in (5, 6, 7)])
        difference = engine.counters - before
        computed.append(difference.num_prefill_tokens)
        if len(computed) <= 4:
            assert_same(completions[0], expected[len(computed) - 1])
    assert computed == [160, 30, 70, 1, 0]  # 96 tokens were there, but not what follows them


def test_cancelled_requests_free_what_they_held(make_engine: MakeEngine) -> None:
    engine = make_engine(stop_id=NO_STOP, prefill_tokens=64)
    keep = request(prompt(0, 90), 1, max_tokens=10)
    (expected,) = make_engine(stop_id=NO_STOP).generate([keep])
    engine.generate([keep])
    before = engine.num_kv_bytes

    running = engine.submit(request(prompt(3, 60), max_tokens=40))
    for _ in range(3):
        engine.step()
    reading = engine.submit(request(prompt(4, 500), max_tokens=40))
    engine.step()
    waiting = engine.submit(request(prompt(5, 60)))
    kept = engine.submit(keep)
    for ticket in (running, reading, waiting, waiting, 999):
        engine.cancel(ticket)
    results = finish(engine)

    assert list(results) == [kept]
    assert_same(completion_of(results[kept]), expected)
    assert engine.counters.num_cancelled == 3
    assert engine.num_kv_bytes <= before + 64 * engine.num_kv_bytes_per_token  # what was read of the first stays cached


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


def test_more_requests_than_sequences_wait_their_turn(make_engine: MakeEngine) -> None:
    requests = [request(prompt(index % 3, 80), index) for index in range(12)]
    expected = make_engine().generate(requests)
    engine = make_engine(max_batch_sequences=4)

    for result, completion in zip(engine.generate(requests), expected, strict=True):
        assert_same(result, completion)


def test_the_cache_keeps_to_its_bytes(make_engine: MakeEngine) -> None:
    limit = 300 * make_engine().num_kv_bytes_per_token
    engine = make_engine(max_kv_bytes=limit, stop_id=NO_STOP)
    for seed in range(6):
        requests = [request(prompt(10 * seed + index, 60), index, max_tokens=4) for index in range(3)]
        tickets = [engine.submit(each) for each in requests]
        results: dict[int, Completion | GrpoError] = {}
        while len(results) < len(tickets):
            results |= {outcome.ticket: outcome.result for outcome in engine.step()}
            assert engine.num_kv_bytes <= limit
        for ticket, each in zip(tickets, requests, strict=True):
            assert_same(completion_of(results[ticket]), make_engine(stop_id=NO_STOP).generate([each])[0])


def test_jump_forward_changes_nothing_but_the_number_of_passes(make_engine: MakeEngine) -> None:
    lines = ((11, 12, 13, 14, 7), (11, 15, 16, 7), (21, 22, 23, 24, 25, 7))
    constraint = LineConstraint((lines, lines, ((30, 31, 32),)), distinct=True)
    requests = [
        GenerationRequest(
            prompt(index % 2, 100), SamplingParams(index, temperature=0.8), constraint, want_ref_logprobs=True
        )
        for index in range(6)
    ]
    fast, slow = make_engine(), make_engine(jump_forward=False)
    for engine in (fast, slow):
        engine.use_version(1)

    for jumped, plain in zip(fast.generate(requests), slow.generate(requests), strict=True):
        assert_same(jumped, plain)
    assert fast.counters.num_forced_tokens == slow.counters.num_forced_tokens > 0
    assert fast.counters.num_decode_steps < slow.counters.num_decode_steps / 2


def test_stop_ids_and_ignoring_them(make_engine: MakeEngine) -> None:
    engine = make_engine(stop_id=NO_STOP)
    (free,) = engine.generate([request(prompt(0, 9), max_tokens=20)])
    stop = int(free.completion_ids[7])
    first = free.completion_ids.tolist().index(stop)

    ended, ignoring = engine.generate(
        [
            GenerationRequest(prompt(0, 9), SamplingParams(0, max_tokens=20, stop_ids=(stop,), ignore_stop=ignore))
            for ignore in (False, True)
        ]
    )

    assert ended.completion_ids.tolist() == free.completion_ids[: first + 1].tolist()
    assert (ended.finish_reason, ignoring.finish_reason) == ("stop", "length")
    assert ignoring.completion_ids.tolist() == free.completion_ids.tolist()


def test_2000_random_mixes_leak_nothing_and_meet_no_wrong_neighbour(make_engine: MakeEngine) -> None:
    """Requests join in mixes of one to four while others decode, some are cancelled, and the version changes."""
    rng = np.random.default_rng(0)
    shared = prompt(99, 64)
    prompts = [np.concatenate([shared[: 32 * (index % 3)], prompt(index, 5 + 40 * (index % 4))]) for index in range(10)]
    lines = ((11, 12, 13, 7), (11, 15, 7), (21, 22, 7))
    constraints = (None, None, LineConstraint((lines, lines)))
    pool = [
        GenerationRequest(
            prompts[int(rng.integers(10))],
            SamplingParams(
                int(rng.integers(1 << 30)),
                temperature=float(rng.choice([0.7, 1.0])),
                top_k=int(rng.choice([0, 5])),
                max_tokens=6,
            ),
            constraints[int(rng.integers(3))],
            bool(rng.integers(2)),
            policy_version=int(rng.integers(4)),
        )
        for _ in range(60)
    ]
    expected = [make_engine().generate([each])[0] for each in pool]
    bad = request(np.zeros(0, dtype=np.int32))
    engine = make_engine(max_batch_sequences=24, prefill_tokens=96, max_kv_bytes=3000 * 1024)

    num_mixes = num_checked = num_bad = 0
    open_tickets: dict[int, int] = {}
    while num_mixes < 2000 or open_tickets:
        if num_mixes < 2000 and len(open_tickets) < 40:
            num_mixes += 1
            for index in rng.integers(len(pool), size=int(rng.integers(1, 5))).tolist():
                open_tickets[engine.submit(pool[index])] = index
            if rng.random() < 0.05:
                open_tickets[engine.submit(bad)] = -1
            if rng.random() < 0.1:
                ticket = list(open_tickets)[int(rng.integers(len(open_tickets)))]
                del open_tickets[ticket]
                engine.cancel(ticket)
            if rng.random() < 0.05:
                engine.use_version(int(rng.integers(4)))
        if rng.random() < 0.4 or num_mixes == 2000 or len(open_tickets) >= 40:
            for outcome in engine.step():
                index = open_tickets.pop(outcome.ticket)
                if index < 0:
                    assert isinstance(outcome.result, PromptError)
                    num_bad += 1
                else:
                    assert_same(completion_of(outcome.result), expected[index])
                    num_checked += 1
            assert engine.num_kv_bytes <= 3000 * 1024

    assert num_checked > 4000
    assert num_bad > 50
    assert engine.num_under_way == 0
    engine.use_version(0)
    counters = engine.counters
    assert counters.num_requests == num_checked + counters.num_failed + counters.num_cancelled
