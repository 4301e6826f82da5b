"""A version that a thread writes: it can be used at once, and what is on disk is as if it had been waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_core.errors import AdapterError, HomeError
from grpo_core.lora.background_store import BackgroundStore
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.types import PolicyVersion, PolicyWeights
from tests.grpo_core.lora.weights import assert_equal, make_adapter, make_full

ENOUGH_S = 60


class SlowDisk:
    """Publications wait until ``may_write`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_write = threading.Event()
        self.begun = threading.Event()
        original = AdapterStore.publish

        def publish(store: AdapterStore, weights: PolicyWeights) -> Path:
            self.begun.set()
            assert self.may_write.wait(ENOUGH_S)
            return original(store, weights)

        monkeypatch.setattr(AdapterStore, "publish", publish)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.may_write.set()


@pytest.mark.parametrize("weights", [make_adapter(1), make_full(1)])
def test_a_version_can_be_used_while_it_is_written(weights: PolicyWeights, disk: SlowDisk, tmp_path: Path) -> None:
    store, elsewhere = BackgroundStore(tmp_path), AdapterStore(tmp_path)
    cache = LoRACache(store, 1 << 20, 3)
    with store.publishing():
        store.publish_soon(weights, keep_last=2)
        found = cache.get(weights.version)
        assert_equal(found.weights, weights)
        assert elsewhere.versions("run") == []
        disk.may_write.set()
        store.wait()
        assert cache.get(weights.version).hit  # what was published is what was in memory

    assert_equal(elsewhere.load(weights.version), weights)
    assert_equal(store.load(weights.version), weights)


def test_who_needs_the_files_waits_for_them(disk: SlowDisk, tmp_path: Path) -> None:
    store = BackgroundStore(tmp_path)
    with store.publishing():
        store.publish_soon(make_adapter(1), keep_last=2)
        assert disk.begun.wait(ENOUGH_S)
        folders: list[Path] = []
        reader = threading.Thread(target=lambda: folders.append(store.folder_of(PolicyVersion("run", 1))))
        reader.start()
        assert folders == []
        disk.may_write.set()
        reader.join(ENOUGH_S)

    assert (folders[0] / "adapter_model.safetensors").exists()


def test_versions_are_written_in_order_and_old_ones_pruned(tmp_path: Path) -> None:
    store = BackgroundStore(tmp_path)
    with store.publishing():
        for number in range(1, 8):
            store.publish_soon(make_adapter(number), keep_last=3)

    assert [version.number for version in store.versions("run")] == [5, 6, 7]
    for number in (5, 6, 7):
        assert_equal(AdapterStore(tmp_path).load(PolicyVersion("run", number)), make_adapter(number))


def test_the_end_of_a_run_waits_for_what_is_written(disk: SlowDisk, tmp_path: Path) -> None:
    store = BackgroundStore(tmp_path)
    threading.Timer(0.2, disk.may_write.set).start()
    with store.publishing():
        store.publish_soon(make_adapter(1), keep_last=2)

    assert [version.number for version in AdapterStore(tmp_path).versions("run")] == [1]


def test_what_could_not_be_written_is_said_at_the_next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BackgroundStore(tmp_path)

    def full(*_: object) -> None:
        raise HomeError("cannot write: no space")

    with store.publishing():
        with monkeypatch.context() as patch:
            patch.setattr(AdapterStore, "_write_object", full)
            store.publish_soon(make_adapter(1), keep_last=2)
            with pytest.raises(HomeError, match="no space"):
                store.publish_soon(make_adapter(2), keep_last=2)
        store.publish_soon(make_adapter(2), keep_last=2)
        store.wait()
    assert [version.number for version in store.versions("run")] == [2]


def test_a_version_of_other_content_is_refused_as_ever(tmp_path: Path) -> None:
    store = BackgroundStore(tmp_path)
    with store.publishing():
        store.publish_soon(make_adapter(1), keep_last=2)
        store.publish_soon(replace(make_adapter(2), version=PolicyVersion("run", 1)), keep_last=2)
        with pytest.raises(AdapterError, match="already published with other content"):
            store.wait()


def test_a_version_that_is_published_anew_is_read_anew(tmp_path: Path) -> None:
    """As by a run that starts again, beside an engine that lives on."""
    store = BackgroundStore(tmp_path)
    cache = LoRACache(store, 1 << 20, 3)
    again = replace(make_adapter(2), version=PolicyVersion("run", 1))
    for weights in (make_adapter(1), again):
        store.discard_after("run", -1)
        with store.publishing():
            store.publish_soon(weights, keep_last=2)
            assert_equal(cache.get(weights.version).weights, weights)
            store.wait()
            assert cache.get(weights.version).hit
    AdapterStore(tmp_path).discard_after("run", -1)
    AdapterStore(tmp_path).publish(make_adapter(1))  # by another process
    assert_equal(cache.get(PolicyVersion("run", 1)).weights, make_adapter(1))
