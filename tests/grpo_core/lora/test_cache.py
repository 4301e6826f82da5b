from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import AdapterCorruptError, AdapterNotFoundError
from grpo_core.lora.cache import CacheCounters, LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.types import Adapter, PolicyVersion, PolicyWeights

ADAPTER_BYTES = 2 * 4 * 8 * 4  # A and B, rank 4, width 8, float32


def version(number: int) -> PolicyVersion:
    return PolicyVersion("run", number)


def make_adapter(number: int) -> Adapter:
    tensors = {
        "layer.q_proj.lora_A.weight": torch.full((4, 8), float(number)),
        "layer.q_proj.lora_B.weight": torch.full((8, 4), float(number)),
    }
    return Adapter(version(number), "base-1", 4, 8.0, ("q_proj",), tensors)


class SlowStore(AdapterStore):
    """A store whose loads wait for ``go``, so that a test decides who comes while one is under way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.go = threading.Event()
        self.num_loads = 0

    def load(self, version: PolicyVersion) -> PolicyWeights:
        self.num_loads += 1
        assert self.go.wait(30)
        return super().load(version)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> AdapterStore:
    store = AdapterStore(tmp_path_factory.mktemp("adapters"))
    for number in range(5):
        store.publish(make_adapter(number))
    return store


@pytest.fixture
def slow_store(tmp_path: Path) -> SlowStore:
    store = SlowStore(tmp_path)
    store.publish(make_adapter(1))
    return store


def test_the_second_request_is_a_hit_and_says_so(store: AdapterStore, caplog: pytest.LogCaptureFixture) -> None:
    cache = LoRACache(store, max_bytes=10**6, max_adapters=4)
    with caplog.at_level(logging.INFO, logger="grpo_core.lora"):
        first = cache.get(version(3))
        assert caplog.messages == []
        second = cache.get(version(3))

    assert (first.hit, second.hit) == (False, True)
    assert second.weights is first.weights
    assert first.weights.version == version(3)
    assert first.load_ms > 0
    assert second.load_ms > 0
    assert caplog.messages == ["Adapter already cached locally: run-v000003"]
    assert caplog.records[0].name == "grpo_core.lora.cache"
    assert cache.counters == CacheCounters(hits=1, misses=1)
    assert (cache.num_adapters, cache.num_bytes) == (1, ADAPTER_BYTES)


@pytest.mark.parametrize(
    ("max_bytes", "max_adapters"), [(10**6, 2), (3 * ADAPTER_BYTES - 1, 9)], ids=["by count", "by bytes"]
)
def test_the_least_recently_used_goes_first(store: AdapterStore, max_bytes: int, max_adapters: int) -> None:
    cache = LoRACache(store, max_bytes, max_adapters)
    cache.get(version(0))
    cache.get(version(1))
    cache.get(version(0))
    cache.get(version(2))  # 1 goes

    assert cache.counters == CacheCounters(hits=1, misses=3, evictions=1)
    assert cache.get(version(0)).hit
    assert cache.get(version(2)).hit
    assert not cache.get(version(1)).hit


@pytest.mark.parametrize(("max_bytes", "max_adapters"), [(ADAPTER_BYTES - 1, 4), (10**6, 0)])
def test_what_cannot_fit_is_served_but_not_kept(store: AdapterStore, max_bytes: int, max_adapters: int) -> None:
    cache = LoRACache(store, max_bytes, max_adapters)

    for _ in range(2):
        result = cache.get(version(1))
        assert not result.hit
        assert result.weights.tensors["layer.q_proj.lora_A.weight"][0, 0] == 1
    assert cache.counters == CacheCounters(misses=2)
    assert cache.num_adapters == 0


def test_a_pinned_adapter_is_never_evicted(store: AdapterStore) -> None:
    cache = LoRACache(store, max_bytes=10**6, max_adapters=1)
    with cache.pinned(version(0)) as adapter:
        assert adapter.version == version(0)
        assert not cache.get(version(1)).hit
        assert not cache.get(version(1)).hit  # no room beside the pinned one
        with cache.pinned(version(2)), cache.pinned(version(2)):
            assert cache.num_adapters == 2  # over the limit, as both are in use
            assert cache.get(version(0)).hit
            assert cache.get(version(2)).hit
        assert cache.num_adapters == 1
        assert cache.get(version(0)).hit
    cache.get(version(1))
    assert not cache.get(version(0)).hit


def test_a_pin_ends_with_an_error_in_its_block(store: AdapterStore) -> None:
    cache = LoRACache(store, max_bytes=0, max_adapters=4)
    with pytest.raises(AdapterNotFoundError), cache.pinned(version(0)):
        cache.get(version(99))
    assert cache.counters == CacheCounters(misses=2, evictions=1)
    assert cache.num_adapters == 0


def wait_until_joined(cache: LoRACache, num_joined: int) -> None:
    deadline = threading.Event()
    for _ in range(3000):
        if cache.counters.joined == num_joined:
            return
        deadline.wait(0.01)
    raise AssertionError("the other threads never came")


def test_concurrent_requests_share_one_load(slow_store: SlowStore) -> None:
    cache = LoRACache(slow_store, max_bytes=10**6, max_adapters=4)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(cache.get, version(1)) for _ in range(4)]
        wait_until_joined(cache, 3)
        slow_store.go.set()
        results = [future.result() for future in futures]

    assert slow_store.num_loads == 1
    assert len({id(result.weights) for result in results}) == 1
    assert not any(result.hit for result in results)
    assert cache.counters == CacheCounters(misses=1, joined=3)
    assert cache.get(version(1)).hit


def test_a_failed_load_reaches_every_waiter_and_is_not_cached(slow_store: SlowStore) -> None:
    path = next((slow_store.publish(make_adapter(1))).glob("*.safetensors"))
    path.write_bytes(b"damaged")
    cache = LoRACache(slow_store, max_bytes=10**6, max_adapters=4)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(cache.get, version(1)) for _ in range(3)]
        wait_until_joined(cache, 2)
        slow_store.go.set()
        for future in futures:
            with pytest.raises(AdapterCorruptError):
                future.result()
    assert slow_store.num_loads == 1

    slow_store.publish(make_adapter(1))  # repairs it
    assert not cache.get(version(1)).hit
    assert cache.get(version(1)).hit


def test_an_unknown_version_is_an_error_each_time(store: AdapterStore) -> None:
    cache = LoRACache(store, max_bytes=10**6, max_adapters=4)
    for _ in range(2):
        with pytest.raises(AdapterNotFoundError, match="run-v000099"):
            cache.get(version(99))
    with pytest.raises(AdapterNotFoundError), cache.pinned(version(99)):
        pass
    assert cache.num_adapters == 0


@given(
    requests=st.lists(st.integers(0, 4), max_size=30), max_adapters=st.integers(0, 5), num_bytes_fit=st.integers(0, 5)
)
def test_it_keeps_what_a_plain_lru_list_keeps(
    store: AdapterStore, requests: list[int], max_adapters: int, num_bytes_fit: int
) -> None:
    cache = LoRACache(store, num_bytes_fit * ADAPTER_BYTES, max_adapters)
    size = min(max_adapters, num_bytes_fit)
    recent: list[int] = []
    for number in requests:
        result = cache.get(version(number))
        assert result.hit == (number in recent)
        assert result.weights.version == version(number)
        recent = ([n for n in recent if n != number] + [number])[-size:] if size else []
        assert cache.num_adapters == len(recent)
        assert cache.num_bytes == len(recent) * ADAPTER_BYTES
    counters = cache.counters
    assert counters.hits + counters.misses == len(requests)
    assert counters.joined == 0


def test_many_threads_get_the_right_adapter_and_every_request_is_counted(store: AdapterStore) -> None:
    cache = LoRACache(store, max_bytes=10**6, max_adapters=2)

    def work(seed: int) -> None:
        for step in range(40):
            number = (seed * 7 + step * 3) % 5
            with cache.pinned(version(number)) as adapter:
                assert adapter.version == version(number)
                assert cache.get(version(number)).weights is adapter

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    counters = cache.counters
    assert counters.hits + counters.misses + counters.joined == 4 * 40 * 2
    assert counters.hits >= 4 * 40  # each get inside a pin
    assert cache.num_adapters <= 2


def test_a_version_that_is_published_anew_is_read_anew(tmp_path: Path) -> None:
    """As by a run that starts again, beside an engine that lives on."""
    store = AdapterStore(tmp_path)
    cache = LoRACache(store, max_bytes=10**6, max_adapters=4)
    store.publish(make_adapter(1))
    with cache.pinned(version(1)) as old:
        store.discard_after("run", 0)
        assert cache.get(version(1)).weights is old  # as one that was pruned
        changed = replace(make_adapter(2), version=version(1))
        store.publish(changed)

        found = cache.get(version(1))

    assert not found.hit
    assert float(found.weights.tensors["layer.q_proj.lora_A.weight"][0, 0]) == 2.0
    assert cache.get(version(1)).hit
