"""Sets of ids, which are packed where they are large."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_core.types import Int32, RaggedIds, pack_ids, unpack_ids

VOCAB_SIZE = 151_936


def some_ids(num: int, seed: int = 0) -> Int32:
    return np.sort(np.random.default_rng(seed).permutation(VOCAB_SIZE)[:num]).astype(np.int32)


@pytest.mark.parametrize("num", [0, 1, 700, 4000, 6000, 120_000, VOCAB_SIZE])
def test_packed_ids_are_the_same_ids_in_no_more_memory(num: int) -> None:
    ids = some_ids(num)
    packed = pack_ids(ids)
    assert np.array_equal(unpack_ids(packed), ids)
    assert unpack_ids(packed).dtype == np.int32
    assert packed.nbytes <= min(ids.nbytes, max(VOCAB_SIZE // 8, 4 * 1024))


@pytest.mark.parametrize("ids", [np.arange(2000)[::-1], np.arange(-5, 2000), np.full(2000, 7)])
def test_what_is_no_ascending_set_stays_as_it_is(ids: Int32) -> None:
    ids = ids.astype(np.int32)
    assert pack_ids(ids) is ids
    ragged = RaggedIds(ids, np.array([0, len(ids)], dtype=np.int32))
    assert np.array_equal(ragged[0], ids)


@pytest.mark.parametrize("sizes", [(3, 1, 2), (3, 120_000, 0, 6000, 2, 90_000), (6000,), ()])
def test_ragged_ids_are_those_that_they_are_made_of(sizes: tuple[int, ...]) -> None:
    sets = [some_ids(size, seed) for seed, size in enumerate(sizes)]
    ids = np.concatenate([*sets, np.zeros(0, np.int32)])
    offsets = np.cumsum([0, *sizes], dtype=np.int32)
    for ragged in (
        RaggedIds(ids, offsets), RaggedIds.of(sets), RaggedIds.of([pack_ids(each) for each in sets]),
    ):  # fmt: skip
        assert len(ragged) == len(sizes)
        assert np.array_equal(ragged.ids, ids)
        assert ragged.ids.dtype == np.int32
        assert np.array_equal(ragged.offsets, offsets)
        for index, expected in enumerate(sets):
            assert np.array_equal(ragged[index], expected)
            assert np.array_equal(unpack_ids(ragged.packed(index)), expected)
            assert np.array_equal(ragged.between(index, len(sizes)), ids[offsets[index] :])


def test_large_sets_take_a_bit_for_each_id() -> None:
    """607 kB a token it was, with 151,936 ids."""
    ragged = RaggedIds.of([pack_ids(some_ids(150_000, seed)) for seed in range(10)])
    assert sum(ragged.packed(index).nbytes for index in range(10)) <= 10 * VOCAB_SIZE / 8
