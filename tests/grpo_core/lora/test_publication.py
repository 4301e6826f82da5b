"""A version appears whole or not at all, once, whoever else publishes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grpo_core.errors import AdapterError
from grpo_core.lora.store import AdapterStore
from grpo_core.types import Adapter, PolicyVersion
from tests.grpo_core.lora.weights import assert_equal, make_adapter


def test_equal_content_is_one_object_and_publishing_again_changes_nothing(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    first = store.publish(make_adapter(1, seed=5))
    reference = (tmp_path / "runs" / "run" / "v000001.json").stat()

    assert store.publish(make_adapter(1, seed=5)) == first
    assert store.publish(make_adapter(2, seed=5)) == first
    after = (tmp_path / "runs" / "run" / "v000001.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (reference.st_ino, reference.st_mtime_ns)


@pytest.mark.parametrize(
    "other",
    [
        make_adapter(1, seed=9),
        dataclasses.replace(make_adapter(1), base_fingerprint="base-2"),
        dataclasses.replace(make_adapter(1), alpha=8.0),
    ],
    ids=["tensors", "base", "alpha"],
)
def test_publishing_a_version_with_other_content_is_refused(tmp_path: Path, other: Adapter) -> None:
    store = AdapterStore(tmp_path)
    store.publish(make_adapter(1))

    with pytest.raises(AdapterError, match="run-v000001: already published with other content"):
        store.publish(other)
    assert_equal(store.load(other.version), make_adapter(1))


class Killed(BaseException):
    """Stands for the process ending at that very call."""


def test_wherever_a_publication_is_cut_off_the_version_is_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_fsync, real_replace, real_rename = os.fsync, os.replace, os.rename
    num_cut_off = 0
    for num_calls_allowed in range(50):
        folder = tmp_path / str(num_calls_allowed)
        AdapterStore(folder).publish(make_adapter(1))
        calls_left = [num_calls_allowed]

        def count(calls_left: list[int] = calls_left) -> None:
            if calls_left[0] == 0:
                raise Killed
            calls_left[0] -= 1

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda file, count=count: (count(), real_fsync(file))[1])
            patch.setattr(os, "replace", lambda old, new, count=count: (count(), real_replace(old, new))[1])
            patch.setattr(os, "rename", lambda old, new, count=count: (count(), real_rename(old, new))[1])
            try:
                AdapterStore(folder).publish(make_adapter(2))
            except Killed:
                num_cut_off += 1

        store = AdapterStore(folder)
        assert_equal(store.load(PolicyVersion("run", 1)), make_adapter(1))
        if PolicyVersion("run", 2) in store.versions("run"):
            assert_equal(store.load(PolicyVersion("run", 2)), make_adapter(2))
        store.publish(make_adapter(2))
        assert_equal(store.load(PolicyVersion("run", 2)), make_adapter(2))
        if calls_left[0] > 0:
            break
    assert num_cut_off >= 8  # two files, folders and a reference are synced, the object and the reference are renamed


HOLD_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_publishing_waits_for_another_process_that_publishes(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    store.publish(make_adapter(1))
    arguments = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / ".lock")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        publishing = threading.Thread(target=store.publish, args=(make_adapter(2),))
        publishing.start()
        publishing.join(0.3)
        assert publishing.is_alive()
        assert_equal(store.load(PolicyVersion("run", 1)), make_adapter(1))  # reading does not wait
        assert store.versions("run") == [PolicyVersion("run", 1)]
        other.stdin.close()
        publishing.join(30)
    assert_equal(store.load(PolicyVersion("run", 2)), make_adapter(2))


def test_threads_that_publish_the_same_versions_exclude_each_other(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)

    def publish_all(offset: int) -> list[int]:
        won = []
        for number in range(10):
            try:
                store.publish(make_adapter(number, seed=number + offset))
            except AdapterError:
                continue
            won.append(number)
        return won

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(publish_all, (0, 100))
    assert sorted(first + second) == list(range(10))  # each version has one winner
    for number in range(10):
        seed = number if number in first else number + 100
        assert_equal(store.load(PolicyVersion("run", number)), make_adapter(number, seed=seed))
