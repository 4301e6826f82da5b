"""There need be no GPU: a module that records the calls stands in for torch."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pytest_grpo.measuring.sampling.clock import now, start_clock


class FakeCuda:
    """Three devices: the second is current, the third holds memory of this process."""

    def __init__(self, *, is_initialized: bool = True) -> None:
        self.synchronized: list[int] = []
        self._is_initialized = is_initialized

    def is_initialized(self) -> bool:
        return self._is_initialized

    def current_device(self) -> int:
        return 1

    def device_count(self) -> int:
        return 3

    def memory_reserved(self, device: int) -> int:
        return 1 << 20 if device == 2 else 0

    def synchronize(self, device: int) -> None:
        self.synchronized.append(device)


def install(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> FakeCuda:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return cuda


def test_all_devices_in_use_are_waited_for_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synchronizing a device waits for all of its streams. The first one is not in use: that would start it."""
    cuda = install(monkeypatch, FakeCuda())
    stop = start_clock()
    assert cuda.synchronized == [1, 2]
    assert stop() >= 0
    assert cuda.synchronized == [1, 2, 1, 2]


def test_work_that_ends_late_on_another_device_is_in_the_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, clock = install(monkeypatch, FakeCuda()), [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    stop = start_clock()

    def finish(device: int) -> None:
        clock[0] += 2.0 if device == 2 else 0.0  # the queue of the third device takes two seconds

    monkeypatch.setattr(cuda, "synchronize", finish)
    assert stop() == 2.0


def test_without_cuda_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, FakeCuda(is_initialized=False))
    assert now() <= now()
    assert start_clock()() >= 0
    monkeypatch.delitem(sys.modules, "torch")
    assert start_clock()() >= 0
    assert cuda.synchronized == []
