"""Versions of the policy: one in use, others under way, and those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grpo_core.config import ModelConfig
from grpo_core.errors import AdapterCorruptError, AdapterError, AdapterNotFoundError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import load_policy
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.rollout.torch_engine.weights.fused import fuse_weights
from grpo_core.rollout.torch_engine.weights.versions import Versions
from grpo_core.types import Adapter, Completion
from tests.grpo_core.rollout.torch_engine.bench import Bench, peft_model
from tests.grpo_core.rollout.torch_engine.completions import assert_same, completion_of, finish
from tests.grpo_core.rollout.torch_engine.sampling_requests import NO_STOP, prompt, random_requests, request

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PlainLogprobs = Callable[[Any, Completion], Tensor]
MakeAdapter = Callable[..., Adapter]
MakeBench = Callable[..., Bench]


@pytest.mark.parametrize("target", TARGETS)
def test_an_adapter_on_any_module_reaches_the_sampler(
    target: str,
    make_bench: MakeBench,
    make_adapter: MakeAdapter,
    plain_model: nn.Module,
    plain_logprobs: PlainLogprobs,
) -> None:
    """The log-probabilities shift, and shift as PEFT's do."""
    bench = make_bench()
    adapter = make_adapter(bench.policy, targets=(target,), std=0.2)
    (before,) = bench.engine.generate([request(prompt(0, 10))])
    bench.publish_and_use(adapter)
    (after,) = bench.engine.generate([request(prompt(0, 10), want_ref=True)])

    with torch.no_grad():
        unchanged = plain_logprobs(plain_model, after).numpy()
        expected = plain_logprobs(peft_model(bench, adapter, plain_model), after).numpy()
    assert after.ref_logprobs is not None
    assert np.abs(after.sampling_logprobs - expected).max() < 1e-4
    assert np.abs(after.ref_logprobs - unchanged).max() < 1e-4
    assert np.abs(expected - unchanged).max() > 1e-2
    assert before.policy_version == 0
    assert after.policy_version == 1


def test_versions_change_both_ways_and_the_base_comes_back_bit_for_bit(
    make_bench: MakeBench, make_adapter: MakeAdapter
) -> None:
    bench = make_bench()
    requests = random_requests(np.random.default_rng(2), 4)
    original = {name: value.clone() for name, value in bench.policy.model.state_dict().items()}
    bench.store.publish(make_adapter(bench.policy, number=1))
    bench.store.publish(make_adapter(bench.policy, number=2, targets=("o_proj",), seed=1))

    swaps, results = [], []
    for number in (0, 1, 1, 2, 1, 0):
        swaps.append(bench.engine.use_version(number))
        assert bench.engine.policy_version == number
        results.append([completion.sampling_logprobs.tobytes() for completion in bench.engine.generate(requests)])

    assert results[0] == results[5]
    assert results[1] == results[2] == results[4]
    assert results[0] != results[1] != results[3]
    assert [swap.cache_hit for swap in swaps] == [True, False, True, False, True, True]
    assert bench.engine.counters.num_adapter_swaps == 3
    for name, value in bench.policy.model.state_dict().items():
        assert torch.equal(value, original[name]), name


def test_an_adapter_that_cannot_be_used_changes_nothing(make_bench: MakeBench, make_adapter: MakeAdapter) -> None:
    from dataclasses import replace

    bench = make_bench()
    fitting = make_adapter(bench.policy)
    bench.publish_and_use(fitting)
    item = request(prompt(0, 8))
    (reference,) = bench.engine.generate([item])
    version = fitting.version
    name = next(iter(fitting.tensors)).removesuffix(".lora_A.weight")
    renamed = {key.replace(name, "model.layers.9.mlp.none"): value for key, value in fitting.tensors.items()}
    wide = dict(fitting.tensors)
    wide[f"{name}.lora_A.weight"] = torch.zeros(4, 65)
    bench.store.publish(replace(fitting, version=replace(version, number=2), base_fingerprint="another"))
    bench.store.publish(replace(fitting, version=replace(version, number=3), tensors=renamed))
    bench.store.publish(replace(fitting, version=replace(version, number=4), tensors=wide))
    damaged = bench.store.publish(replace(fitting, version=replace(version, number=5), alpha=3.0))
    (damaged / "adapter_model.safetensors").write_bytes(b"damaged")

    for number, error, match in [
        (9, AdapterNotFoundError, "run-v000009: not published"),
        (2, AdapterError, "run-v000002 was trained on base model another"),
        (3, AdapterError, r"no linear module 'model\.layers\.9\.mlp\.none'"),
        (4, AdapterError, "has shape .*, the model"),
        (5, AdapterCorruptError, "run-v000005"),
    ]:
        with pytest.raises(error, match=match) as raised:
            bench.engine.use_version(number)
        assert "\n" not in str(raised.value)
        assert bench.engine.policy_version == 1
        (now,) = bench.engine.generate([item])
        assert now.sampling_logprobs.tobytes() == reference.sampling_logprobs.tobytes()
    assert bench.engine.use_version(0).policy_version == 0


MakeEngine = Callable[..., TorchEngine]


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
    assert engine.counters.num_decode_steps <= 2 * 12


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


def test_a_version_that_is_published_anew_is_served_anew(make_bench: MakeBench, make_adapter: MakeAdapter) -> None:
    bench = make_bench()
    asked = request(prompt(0, 40))
    bench.publish_and_use(make_adapter(bench.policy, number=1, seed=1))
    (old,) = bench.engine.generate([asked])
    under_way = bench.engine.submit(request(prompt(0, 40), max_tokens=30))
    bench.engine.step()
    bench.store.discard_after("run", 0)
    bench.store.publish(make_adapter(bench.policy, number=1, seed=2))

    with pytest.raises(AdapterError, match="published again while requests use its old weights"):
        bench.engine.use_version(1)
    bench.engine.cancel(under_way)
    bench.engine.use_version(1)
    (new,) = bench.engine.generate([asked])
    fresh = make_bench()
    fresh.publish_and_use(make_adapter(fresh.policy, number=1, seed=2))

    assert_same(new, fresh.engine.generate([asked])[0])
    assert old.sampling_logprobs.tobytes() != new.sampling_logprobs.tobytes()


def test_in_bfloat16_an_active_adapter_stays_apart(
    model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Merged, most of a small update would be rounded away, and what is sampled would not be what is trained."""
    policy = load_policy(ModelConfig(name=str(model_folder), device="cpu", dtype="bfloat16"))
    adapter, store = make_adapter(policy), AdapterStore(tmp_path)
    store.publish(adapter)
    base = fuse_weights(policy)
    versions = Versions(base, policy.fingerprint, LoRACache(store, 1 << 20, 1), adapter.version.run)
    versions.activate(adapter.version.number)
    running = versions.weights_of(adapter.version.number)
    assert running.weights is base
    assert running.updates


def test_in_bfloat16_requests_run_the_active_version_as_they_run_it_beside_others(
    model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    policy = load_policy(ModelConfig(name=str(model_folder), device="cpu", dtype="bfloat16"))
    store = AdapterStore(tmp_path)
    adapter = make_adapter(policy, std=0.2)
    store.publish(adapter)
    engine = TorchEngine(policy, (NO_STOP,), LoRACache(store, 1 << 20, 1), adapter.version.run)
    (base,) = engine.generate([request(prompt(0, 10))])
    (beside,) = engine.generate([request(prompt(0, 10), version=adapter.version.number)])
    engine.use_version(adapter.version.number)
    (active,) = engine.generate([request(prompt(0, 10))])
    assert_same(active, beside)
    assert not np.array_equal(active.sampling_logprobs, base.sampling_logprobs)
