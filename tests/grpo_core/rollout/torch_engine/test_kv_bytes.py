"""``max_kv_bytes`` bounds what is in memory, also while slots grow, prompts are split, versions change and answers are
scored; and completions are those of an engine with plenty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from grpo_core.errors import CapacityError, GrpoError
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams, run_requests
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Completion
from tests.grpo_core.rollout.torch_engine.completions import assert_same, completion_of, finish
from tests.grpo_core.rollout.torch_engine.held_bytes import held_bytes
from tests.grpo_core.rollout.torch_engine.sampling_requests import NO_STOP, prompt, request

MakeEngine = Callable[..., TorchEngine]


def run_bounded(
    engine: TorchEngine, max_bytes: int, stages: Sequence[Sequence[GenerationRequest]], num_steps: int = 3
) -> tuple[list[Completion | GrpoError], int]:
    """The results, and the most bytes that were held, when a stage is submitted every ``num_steps`` steps."""
    results: dict[int, Completion | GrpoError] = {}
    tickets: list[int] = []
    waiting = list(stages)
    with held_bytes(engine.base_weights) as held:
        for _ in range(2000):
            if waiting:
                tickets += [engine.submit(each) for each in waiting.pop(0)]
            for _ in range(num_steps):
                results |= {outcome.ticket: outcome.result for outcome in engine.step()}
                assert held.now <= engine.num_kv_bytes  # what is counted is what is there
            if not waiting and not engine.num_under_way:
                break
        assert not engine.num_under_way, "the engine does not come to an end"
        assert 0 < held.most <= max_bytes
    return [results[ticket] for ticket in tickets], held.most


def expect_alone(make_engine: MakeEngine, requests: Sequence[GenerationRequest], version: int = 0) -> list[Completion]:
    engine = make_engine(stop_id=NO_STOP)
    engine.use_version(version)
    return [engine.generate([each])[0] for each in requests]


@pytest.mark.parametrize("native", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_scoring_keeps_to_the_limit(make_engine: MakeEngine, native: bool) -> None:
    """All siblings of a prompt are scored when the last one has ended, more than ever decode at once."""
    limit = 300 * make_engine().num_kv_bytes_per_token
    engine = make_engine(stop_id=NO_STOP, max_kv_bytes=limit, native=native)
    engine.use_version(1)
    siblings = [request(prompt(0, 70), seed, max_tokens=24, want_ref=True) for seed in range(20)]

    results, most = run_bounded(engine, limit, [siblings])

    assert most > limit / 2
    for result, expected in zip(results, expect_alone(make_engine, siblings, version=1), strict=True):
        assert_same(completion_of(result), expected)


def test_answers_are_scored_by_their_length(make_engine: MakeEngine) -> None:
    """And not by what they might have had."""
    engine = make_engine(stop_id=NO_STOP)
    engine.use_version(1)
    stops = tuple(range(384))
    short = [
        GenerationRequest(prompt(seed, 20), SamplingParams(seed, max_tokens=1000, stop_ids=stops), None, True)
        for seed in range(4)
    ]
    with held_bytes(engine.base_weights) as held:
        results = run_requests(engine, short)
    assert all(len(completion_of(result).completion_ids) == 1 for result in results)
    assert held.most < 1000 * engine.num_kv_bytes_per_token


def test_longer_requests_join_without_a_copy_that_does_not_fit(make_engine: MakeEngine) -> None:
    limit = 1100 * make_engine().num_kv_bytes_per_token
    short = [request(prompt(index, 10), index, max_tokens=70) for index in range(8)]
    long = [request(prompt(50 + index, 10), index, max_tokens=150) for index in range(2)]
    engine = make_engine(stop_id=NO_STOP, max_kv_bytes=limit)

    with held_bytes(engine.base_weights) as held:
        tickets = [engine.submit(each) for each in short]
        engine.step()
        tickets += [engine.submit(each) for each in long]
        engine.step()
        assert set(engine.drawn_tokens()) == set(tickets)  # ten slots as long as the longest would not fit
        results = finish(engine)
        assert held.most <= limit

    for ticket, expected in zip(tickets, expect_alone(make_engine, [*short, *long]), strict=True):
        assert_same(completion_of(results[ticket]), expected)


def test_a_prompt_is_split_within_the_limit(make_engine: MakeEngine) -> None:
    per_token = make_engine().num_kv_bytes_per_token
    first = prompt(0, 320)
    other = np.concatenate([first[:160], prompt(1, 100)])
    limit = 760 * per_token
    engine = make_engine(stop_id=NO_STOP, max_kv_bytes=limit)

    results, _ = run_bounded(engine, limit, [[request(first, max_tokens=30)], [request(other, max_tokens=30)]])

    expected = expect_alone(make_engine, [request(first, max_tokens=30), request(other, max_tokens=30)])
    for result, completion in zip(results, expected, strict=True):
        assert_same(completion_of(result), completion)


def test_a_swap_copies_no_rows(make_engine: MakeEngine) -> None:
    """Those of the version before go on with other weights."""
    per_token = make_engine().num_kv_bytes_per_token
    engine = make_engine(stop_id=NO_STOP, max_kv_bytes=700 * per_token)
    engine.use_version(1)
    requests = [request(prompt(index, 20), index, max_tokens=40) for index in range(8)]
    with held_bytes(engine.base_weights) as held:
        tickets = [engine.submit(each) for each in requests]
        for _ in range(3):
            engine.step()
        before = held.most
        engine.use_version(2)
        assert held.most == before
        results: dict[int, Completion | GrpoError] = {}
        while engine.num_under_way:
            results |= {outcome.ticket: outcome.result for outcome in engine.step()}
        assert held.most <= 700 * per_token
    for ticket, expected in zip(tickets, expect_alone(make_engine, requests, version=1), strict=True):
        assert_same(completion_of(results[ticket]), expected)


def test_what_never_fits_is_refused_and_what_just_fits_runs(make_engine: MakeEngine) -> None:
    per_token = make_engine().num_kv_bytes_per_token
    fits, too_long = request(prompt(0, 30), max_tokens=34), request(prompt(1, 30), max_tokens=35)
    limit = (30 + 64) * per_token
    engine = make_engine(stop_id=NO_STOP, max_kv_bytes=limit)

    (first, second), _ = run_bounded(engine, limit, [[fits, too_long]])

    completion_of(first)
    assert isinstance(second, CapacityError)


@pytest.mark.slow
def test_random_mixes_keep_to_the_limit(make_engine: MakeEngine) -> None:
    rng = np.random.default_rng(1)
    shared = prompt(99, 96)
    pool = [
        request(
            np.concatenate([shared[: 48 * (index % 3)], prompt(index, 5 + 50 * (index % 3))]),
            index,
            max_tokens=int(rng.integers(1, 60)),
            want_ref=bool(rng.integers(2)),
            version=int(rng.integers(4)),
        )
        for index in range(40)
    ]
    expected = [make_engine(stop_id=NO_STOP).generate([each])[0] for each in pool]
    limit = 900 * make_engine().num_kv_bytes_per_token
    engine = make_engine(stop_id=NO_STOP, max_kv_bytes=limit, prefill_tokens=64)
    picks = rng.integers(len(pool), size=(12, 4))
    under_way: dict[int, int] = {}
    with held_bytes(engine.base_weights) as held:
        for mix in picks.tolist():
            under_way |= {engine.submit(pool[index]): index for index in mix}
            if rng.random() < 0.2:
                engine.use_version(int(rng.integers(4)))
            for _ in range(int(rng.integers(1, 12))):
                for outcome in engine.step():
                    assert_same(completion_of(outcome.result), expected[under_way.pop(outcome.ticket)])
                assert held.most <= limit
        while under_way:
            for outcome in engine.step():
                assert_same(completion_of(outcome.result), expected[under_way.pop(outcome.ticket)])
            assert held.most <= limit
    assert engine.num_under_way == 0
