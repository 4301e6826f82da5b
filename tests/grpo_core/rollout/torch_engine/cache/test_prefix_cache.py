from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.config import ModelConfig
from grpo_core.model.policy import load_policy
from grpo_core.rollout.torch_engine.cache.prefix_cache import PAGE_TOKENS, PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights, fuse_weights
from grpo_core.types import Int32

PAGE = PAGE_TOKENS


@pytest.fixture(scope="module")
def weights(model_folder: Path) -> DecoderWeights:
    return fuse_weights(load_policy(ModelConfig(name=str(model_folder), device="cpu")))


def ids(*pages: int, tail: int = 0) -> Int32:
    """One page of each number, and ``tail`` tokens more."""
    return np.array([page for page in pages for _ in range(PAGE)] + [7] * tail, dtype=np.int32)


def read(cache: PrefixCache, node: PrefixNode) -> int:
    """Pretend to compute what is not ready on the way to ``node``; how many tokens that was. Keys are token ids."""
    num = 0
    for each in node.path():
        keys, values = cache.allocate(each)
        num += each.num_tokens - each.num_ready
        keys[:] = values[:] = torch_row(each.tokens)
        each.num_ready = each.num_tokens
    return num


def torch_row(tokens: Int32) -> torch.Tensor:
    return torch.from_numpy(tokens.astype(np.float32))[:, None]


def tokens_of(node: PrefixNode) -> list[int]:
    return [int(token) for each in node.path() for token in each.tokens]


def test_prompts_share_what_they_begin_with(weights: DecoderWeights) -> None:
    cache = PrefixCache(weights)
    first = cache.acquire(0, ids(1, 2, 3, tail=5))
    assert read(cache, first) == 3 * PAGE + 5
    second = cache.acquire(0, ids(1, 2, 4, tail=5))
    assert read(cache, second) == PAGE + 5
    third = cache.acquire(0, ids(1))
    assert read(cache, third) == 0
    assert [tokens_of(node) for node in (first, second, third)] == [
        ids(1, 2, 3, tail=5).tolist(),
        ids(1, 2, 4, tail=5).tolist(),
        ids(1).tolist(),
    ]
    assert first.path()[0] is second.path()[0] is third
    assert cache.num_bytes == (4 * PAGE + 10) * weights.kv_bytes_per_token


def test_a_split_node_keeps_the_keys_of_both_parts(weights: DecoderWeights) -> None:
    cache = PrefixCache(weights)
    long = cache.acquire(0, ids(1, 2, 3))
    read(cache, long)
    cache.acquire(0, ids(1, 9))
    for node in long.path():
        assert node.keys is not None
        assert node.keys[0, 0, :, 0].tolist() == node.tokens.tolist()
    assert long.path()[-1] is long
    assert (long.start, long.end, long.is_ready) == (PAGE, 3 * PAGE, True)


def test_versions_share_nothing(weights: DecoderWeights) -> None:
    cache = PrefixCache(weights)
    assert read(cache, cache.acquire(1, ids(1, 2))) == 2 * PAGE
    assert read(cache, cache.acquire(2, ids(1, 2))) == 2 * PAGE


def test_a_dropped_version_is_freed_with_its_last_user_and_never_found_again(weights: DecoderWeights) -> None:
    cache = PrefixCache(weights)
    used, unused = cache.acquire(1, ids(1, 2)), cache.acquire(1, ids(1, 3))
    read(cache, used)
    read(cache, unused)
    cache.release(unused)

    cache.drop(1)
    assert cache.num_bytes == 2 * PAGE * weights.kv_bytes_per_token
    assert used.keys is not None
    again = cache.acquire(1, ids(1, 2))
    assert not again.is_ready
    cache.release(used)
    cache.release(again)
    assert cache.num_bytes == 0


def test_eviction_takes_the_least_recently_used_and_never_what_is_in_use(weights: DecoderWeights) -> None:
    cache = PrefixCache(weights)
    nodes = [cache.acquire(0, ids(page)) for page in (1, 2, 3)]
    for node in nodes:
        read(cache, node)
    for node in nodes[:2]:
        cache.release(node)
    cache.release(cache.acquire(0, ids(1)))

    cache.evict(1)
    assert [node.keys is not None for node in nodes] == [True, False, True]
    cache.evict(1 << 40)
    assert [node.keys is not None for node in nodes] == [False, False, True]
    assert cache.num_bytes == PAGE * weights.kv_bytes_per_token


def test_what_was_never_read_does_not_stay(weights: DecoderWeights) -> None:
    cache = PrefixCache(weights)
    ready = cache.acquire(0, ids(1))
    read(cache, ready)
    cache.release(cache.acquire(0, ids(1, 2, tail=3)))
    assert not ready.children
    assert not cache.acquire(0, ids(1, 2)).is_ready


@settings(deadline=None, max_examples=80)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["acquire", "release", "evict", "drop"]),
            st.integers(0, 2),
            st.lists(st.integers(1, 2), max_size=4),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_bytes_and_paths_stay_right_whatever_is_done(
    steps: list[tuple[str, int, list[int], int]], weights: DecoderWeights
) -> None:
    cache = PrefixCache(weights)
    held: list[tuple[int, Int32, PrefixNode]] = []
    for what, version, pages, tail in steps:
        prompt = ids(*pages, tail=tail)
        if what == "acquire" and len(prompt):
            node = cache.acquire(version, prompt)
            if tail != 1:  # some are released before they were read
                read(cache, node)
            held.append((version, prompt, node))
        elif what == "release" and held:
            cache.release(held.pop(len(held) // 2)[2])
        elif what == "evict":
            cache.evict(PAGE * weights.kv_bytes_per_token)
        elif what == "drop":
            cache.drop(version)
        for _, expected, node in held:
            assert tokens_of(node) == expected.tolist()
            for each in node.path():
                if each.is_ready:
                    assert each.keys is not None
                    assert each.keys[0, 0, :, 0].tolist() == each.tokens.tolist()
    for _, _, node in held:
        cache.release(node)
    for version in range(3):
        cache.drop(version)
    assert cache.num_bytes == 0
