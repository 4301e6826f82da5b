"""Which adapters vLLM has loaded: what it is told to load and unload, and what is counted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.rollout.vllm_engine.adapters import BaseModel, ResidentAdapters, linear_shapes
from grpo_core.types import Adapter

MakeAdapter = Callable[..., Adapter]


@pytest.fixture
def cache(tmp_path: Path) -> LoRACache:
    return LoRACache(AdapterStore(tmp_path / "adapters"), 1 << 20, 4)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def resident(cache: LoRACache, told: list[str], policy: Policy, model_folder: Path) -> ResidentAdapters:
    return ResidentAdapters(
        cache,
        cache._store,
        "run",
        BaseModel(policy.fingerprint, linear_shapes(str(model_folder)), max_lora_rank=64),
        load=lambda adapter: told.append(f"load {adapter.version.number}"),
        unload=lambda adapter: told.append(f"unload {adapter.version.number}"),
        ids=itertools.count(1),
    )


def test_what_is_resident_is_a_hit_and_no_swap(
    resident: ResidentAdapters, cache: LoRACache, told: list[str], policy: Policy, make_adapter: MakeAdapter
) -> None:
    cache._store.publish(make_adapter(policy, number=1))

    swaps = [resident.use(number) for number in (0, 1, 1, 0, 1)]

    assert [swap.cache_hit for swap in swaps] == [True, False, True, True, True]
    assert told == ["load 1", "unload 1", "load 1"]
    assert (cache.counters.hits, cache.counters.misses) == (2, 1)
    assert resident.num_swaps == 2


def test_a_version_that_was_published_anew_is_loaded_and_a_swap(
    resident: ResidentAdapters, cache: LoRACache, told: list[str], policy: Policy, make_adapter: MakeAdapter
) -> None:
    cache._store.publish(make_adapter(policy, number=1))
    resident.use(1)
    cache._store.discard_after("run", 0)
    cache._store.publish(make_adapter(policy, number=1, seed=5, std=0.2))

    swap = resident.use(1)

    assert not swap.cache_hit
    assert told == ["load 1", "unload 1", "load 1"]
    assert (cache.counters.hits, cache.counters.misses) == (0, 2)
    assert resident.num_swaps == 2
