from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from pytest_grpo.measuring.machine import quiet
from pytest_grpo.measuring.machine.cpu_use import CpuUse
from pytest_grpo.measuring.machine.quiet import QuietGuard

ROUND_S = 1.0
Uses = Callable[[Iterable[float]], None]


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Uses:
    """Others use these cores in turn, from one reading to the next, a second each; then the last of them for ever."""

    def use(cores: Iterable[float]) -> None:
        *first, last = cores
        readings = itertools.accumulate([0.0, *first, *[last] * 1000])
        uses = (CpuUse(ROUND_S * number, used_s, {}, 0.0) for number, used_s in enumerate(readings))
        monkeypatch.setattr(quiet.CpuUse, "read", lambda: next(uses))

    monkeypatch.setattr(quiet.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(quiet, "num_cores_out_of_reach", lambda: 0.0)
    return use


def test_a_round_counts_while_others_are_quiet(others: Uses) -> None:
    others([0.0, 0.05, 0.0, 0.12])
    guard = QuietGuard(max_cores=0.1, max_wait_s=10)
    assert guard.counts()
    guard.start_round()
    assert guard.counts()
    assert guard.left_out() == guard.problem() == ""


def test_after_a_busy_round_it_waits_until_others_are_quiet(others: Uses) -> None:
    others([1.0, 0.0, 1.0, 1.0, 0.0])
    guard = QuietGuard(max_cores=0.1, max_wait_s=10)
    assert not guard.counts()
    assert guard.waited_s == 3
    assert guard.left_out() == "1 were left out because other processes used the cores (waited 3.0 s for quiet)"


def test_the_wait_is_bounded_and_rounds_are_left_out_from_then_on(others: Uses) -> None:
    others([1.0])
    guard = QuietGuard(max_cores=0.1, max_wait_s=4)
    for _ in range(3):
        guard.start_round()
        assert not guard.counts()
    assert guard.waited_s == 4
    assert guard.left_out().startswith("3 were left out ")


def test_what_a_quota_keeps_out_of_reach_is_not_in_the_way(others: Uses, monkeypatch: pytest.MonkeyPatch) -> None:
    others([20.0])
    monkeypatch.setattr(quiet, "num_cores_out_of_reach", lambda: 62.0)
    assert QuietGuard(max_cores=0.1, max_wait_s=0).counts()


def test_a_little_work_in_many_short_rounds_is_seen_in_their_sum(others: Uses) -> None:
    others([0.12])
    guard = QuietGuard(max_cores=0.1, max_wait_s=0)
    for _ in range(20):
        guard.start_round()
        assert guard.counts()
    assert guard.problem() == "other processes used 0.12 cores on average, 0.1 are allowed"


def test_a_throttled_round_is_measured_again(others: Uses, monkeypatch: pytest.MonkeyPatch) -> None:
    others([0.0])
    reasons = iter([("hw_thermal",), ()])
    monkeypatch.setattr(quiet, "throttle_reasons", lambda: next(reasons))
    guard = QuietGuard(max_cores=0.1, max_wait_s=0, with_gpu=True)
    assert [guard.counts(), guard.counts()] == [False, True]
    assert guard.left_out() == "1 were left out because the GPU was throttled"
