from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.protocol import EngineCounters, GenerationRequest, SamplingParams
from grpo_core.rollout.torch_engine.engine import TorchEngine
from tests.grpo_core.rollout.chosen_lines import assert_two_distinct_lines
from tests.grpo_core.rollout.torch_engine.bench import Bench
from tests.grpo_core.rollout.torch_engine.completions import assert_same
from tests.grpo_core.rollout.torch_engine.sampling_requests import NO_STOP, prompt, random_requests, request

MakeBench = Callable[..., Bench]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_completion_does_not_depend_on_who_shares_the_batch(seed: int, native: bool, make_bench: MakeBench) -> None:
    requests = random_requests(np.random.default_rng(seed), 7)
    assert len(requests) > 7
    bench = make_bench(native=native)

    together = bench.engine.generate(requests)
    alone = [bench.engine.generate([item])[0] for item in requests]
    backwards = bench.engine.generate(requests[::-1])[::-1]
    in_small_batches = make_bench(max_batch_sequences=3, prefill_tokens=16, native=native).engine.generate(requests)

    for item, reference in zip(requests, together, strict=True):
        assert np.array_equal(item.prompt_ids, reference.prompt_ids)
        assert reference.temperature == item.sampling.temperature
    for other in (alone, backwards, in_small_batches):
        for one, reference in zip(other, together, strict=True):
            assert_same(one, reference, tolerance=1e-5)


def test_the_seed_decides(make_bench: MakeBench) -> None:
    bench = make_bench()
    requests = [request(prompt(0, 9), seed) for seed in (5, 5, 6, 2**64 - 1)]

    first, again, other, large = bench.engine.generate(requests)

    assert_same(first, again, tolerance=1e-5)
    assert_same(first, make_bench().engine.generate(requests[:1])[0], tolerance=1e-5)
    assert first.completion_ids.tolist() != other.completion_ids.tolist() != large.completion_ids.tolist()


def test_the_constraint_is_recorded_exactly(make_bench: MakeBench) -> None:
    lines = ((11, 12, 7), (11, 13, 7), (14, 7))
    constraint = LineConstraint((lines, lines), distinct=True)

    completions = make_bench().engine.generate(
        [request(prompt(0, 8), seed, constraint=constraint, max_tokens=1) for seed in range(20)]
    )

    assert_two_distinct_lines(completions, lines, last_id=7)


def test_a_completion_without_a_choice_is_forced_throughout(make_bench: MakeBench) -> None:
    bench = make_bench()
    (completion,) = bench.engine.generate(
        [request(prompt(0, 5), constraint=LineConstraint((((1, 2, 3),), ((4, 5),))), want_ref=True)]
    )

    assert completion.completion_ids.tolist() == [1, 2, 3, 4, 5]
    assert not completion.completion_mask.any()
    assert completion.sampling_logprobs.tolist() == [0.0] * 5


def test_a_free_completion_ends_with_the_stop_token_or_the_budget(make_bench: MakeBench) -> None:
    completions = make_bench(stop_id=50).engine.generate(
        [request(prompt(0, 6), seed, temperature=1.5, max_tokens=40) for seed in range(60)]
    )

    reasons = {completion.finish_reason for completion in completions}
    assert reasons == {"stop", "length"}
    for completion in completions:
        ids = completion.completion_ids.tolist()
        assert completion.allowed_ids is None
        assert completion.completion_mask.all()
        assert 50 not in ids[:-1]
        assert completion.finish_reason == ("stop" if ids[-1] == 50 else "length")
        assert completion.finish_reason == "stop" or len(ids) == 40


def test_a_stop_token_inside_a_constraint_does_not_end_it(make_bench: MakeBench) -> None:
    (completion,) = make_bench(stop_id=2).engine.generate(
        [request(prompt(0, 5), constraint=LineConstraint((((1, 2, 3),),)))]
    )

    assert completion.completion_ids.tolist() == [1, 2, 3]


def test_counters_are_exact_and_a_shared_prompt_counts_once(make_bench: MakeBench) -> None:
    bench = make_bench(stop_id=NO_STOP)
    long, short = prompt(0, 30), prompt(1, 4)
    forced = LineConstraint((((1, 2, 3),),))
    bench.engine.generate([request(ids, seed, max_tokens=5) for seed in range(3) for ids in (long, short)])
    counters = bench.engine.counters

    assert counters.num_requests == 6
    assert counters.num_prefill_tokens == 34
    assert counters.num_completion_tokens == 30
    assert counters.num_decode_steps == 4  # one cohort; the first token comes from the prompt
    assert counters.num_decode_rows == 4 * 6
    assert 0 < counters.kv_share_steps < 4
    assert counters.num_sampled_tokens == 30
    assert counters.num_adapter_swaps == 0
    bench.engine.generate([request(short, constraint=forced)])
    assert bench.engine.counters - counters == EngineCounters(
        num_requests=1, num_completion_tokens=3, num_cached_tokens=4, num_forced_tokens=3
    )
    assert bench.engine.generate([]) == []


def test_finished_rows_leave_the_batch_without_a_trace(make_bench: MakeBench) -> None:
    """Most rows end early, so the batch is closed up several times; what is left goes on as if alone."""
    bench = make_bench(stop_id=NO_STOP)
    budgets = [1, 2, 2, 3, 30, 4, 25, 1]
    requests = [
        request(prompt(index, 3 + 70 * (index % 3)), seed, max_tokens=budget if seed else 1)
        for index, budget in enumerate(budgets)
        for seed in range(2)
    ]

    together = bench.engine.generate(requests)

    assert bench.engine.counters.num_decode_steps == 29
    for item, completion in zip(requests, together, strict=True):
        assert len(completion.completion_ids) == item.sampling.max_tokens
        assert_same(completion, make_bench(stop_id=NO_STOP).engine.generate([item])[0], tolerance=1e-5)


def test_a_prompt_that_just_fits_runs(make_bench: MakeBench) -> None:
    (completion,) = make_bench(stop_id=NO_STOP).engine.generate([request(prompt(0, 2038), max_tokens=10)])
    assert len(completion.completion_ids) == 10


MakeEngine = Callable[..., TorchEngine]


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


def test_a_profile_names_the_parts_of_a_step(make_bench: MakeBench) -> None:
    bench = make_bench()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        bench.engine.generate([request(prompt(0, 9), 5)])
    assert {"prefill", "decode", "sample"} <= {event.key for event in profile.key_averages()}
