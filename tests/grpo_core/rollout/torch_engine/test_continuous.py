"""Requests that join, leave and wait while others decode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from grpo_core.errors import GrpoError, PromptError
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Completion
from tests.grpo_core.rollout.torch_engine.completions import assert_same, completion_of, finish
from tests.grpo_core.rollout.torch_engine.sampling_requests import NO_STOP, prompt, request

MakeEngine = Callable[..., TorchEngine]


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


@pytest.mark.parametrize("num_mixes", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_mixes_leak_nothing_and_meet_no_wrong_neighbour(make_engine: MakeEngine, num_mixes: int) -> None:
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

    num_mixed = num_checked = num_bad = 0
    open_tickets: dict[int, int] = {}
    while num_mixed < num_mixes or open_tickets:
        if num_mixed < num_mixes and len(open_tickets) < 40:
            num_mixed += 1
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
        if rng.random() < 0.4 or num_mixed == num_mixes or len(open_tickets) >= 40:
            for outcome in engine.step():
                index = open_tickets.pop(outcome.ticket)
                if index < 0:
                    assert isinstance(outcome.result, PromptError)
                    num_bad += 1
                else:
                    assert_same(completion_of(outcome.result), expected[index])
                    num_checked += 1
            assert engine.num_kv_bytes <= 3000 * 1024

    assert num_checked > 2 * num_mixes
    assert num_bad > num_mixes / 40
    assert engine.num_under_way == 0
    engine.use_version(0)
    counters = engine.counters
    assert counters.num_requests == num_checked + counters.num_failed + counters.num_cancelled
