from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from grpo_core.schedule.batch_file import write_batch
from grpo_core.schedule.buffer import Lease, RolloutBuffer, SlotGrant
from grpo_core.types import Batch, RolloutStats

T = TypeVar("T")
# Threads make an example hard to repeat, so a failing one is not shrunk.
threaded = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def make_batch(index: int, policy_version: int) -> Batch:
    return Batch(index, policy_version, (), RolloutStats(1.0, 0, 0, 0, 0))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def await_end(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "deadlock"


def answer(call: Callable[[], T]) -> T:
    """What ``call`` returns; a call that never returns fails the test."""
    answers: list[T] = []
    await_end(in_thread(lambda: answers.append(call())))
    return answers[0]


def put_next(buffer: RolloutBuffer) -> SlotGrant:
    grant = answer(buffer.wait_for_slot)
    assert grant is not None
    buffer.put(make_batch(grant.index, grant.policy_version))
    return grant


def take(buffer: RolloutBuffer) -> Lease:
    lease = answer(buffer.take)
    assert lease is not None
    return lease


@dataclass
class Run:
    """A producer and a trainer on real threads, each with pauses of its own, and what they saw."""

    buffer: RolloutBuffer
    production_s: Callable[[int], float] = lambda index: 0.0
    step_s: Callable[[int], float] = lambda step: 0.0
    granted: list[SlotGrant] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)
    max_depth_seen: int = 0
    step_running: threading.Event = field(default_factory=threading.Event)
    overlapped: list[int] = field(default_factory=list)  # batches begun while a step was running

    def produce(self) -> None:
        while (grant := self.buffer.wait_for_slot()) is not None:
            self.granted.append(grant)
            if self.step_running.is_set():
                self.overlapped.append(grant.index)
            _pause(self.production_s(grant.index))
            self.buffer.put(make_batch(grant.index, grant.policy_version))
            self.max_depth_seen = max(self.max_depth_seen, self.buffer.depth)

    def train(self) -> None:
        while (lease := self.buffer.take()) is not None:
            self.leases.append(lease)
            self.step_running.set()
            _pause(self.step_s(lease.batch.index))
            self.step_running.clear()
            self.buffer.acknowledge(lease)

    def go(self, *others: Callable[[], None]) -> Run:
        """Until both sides have ended. A deadlock ends the test."""
        sides = (self.produce, self.train, *others)
        await_end(*[in_thread(partial(self._guard, side)) for side in sides])
        return self

    def _guard(self, side: Callable[[], None]) -> None:
        try:
            side()
        except Exception as error:  # each test judges them
            self.problems.append(error)


def _pause(duration_s: float) -> None:
    if duration_s:
        time.sleep(duration_s)


def jitter(seed: int, scale_s: float) -> Callable[[int], float]:
    return lambda index: random.Random(f"{seed}/{index}").choice([0, 0, 0.3, 1]) * scale_s


@settings(threaded, max_examples=60)
@given(
    depth=st.integers(1, 6),
    lag=st.integers(0, 5),
    num_batches=st.integers(0, 12),
    first_step=st.integers(0, 3),
    seed=st.integers(0, 1000),
    speeds=st.tuples(st.sampled_from([0, 1e-3, 3e-3]), st.sampled_from([0, 1e-3, 3e-3])),
)
def test_no_timing_breaks_the_budget_or_loses_a_batch(
    depth: int, lag: int, num_batches: int, first_step: int, seed: int, speeds: tuple[float, float]
) -> None:
    buffer = RolloutBuffer(None, depth, lag, num_batches, first_step)
    run = Run(buffer, jitter(seed, speeds[0]), jitter(seed + 1, speeds[1])).go()

    assert run.problems == []
    expected = list(range(first_step, num_batches))
    assert [lease.batch.index for lease in run.leases] == expected
    assert [grant.index for grant in run.granted] == expected
    held = min(depth, max(1, lag))
    for lease in run.leases:
        assert lease.policy_lag_steps == lease.batch.index - lease.batch.policy_version
        assert 0 <= lease.policy_lag_steps <= lag
        still_to_come = num_batches - lease.batch.index
        assert min(held, still_to_come) <= lease.depth_before <= min(depth, lag + 1)
    assert run.max_depth_seen <= depth
    assert buffer.depth == 0
    assert buffer.num_stale_dropped == 0
    assert buffer.trainer_version == max(first_step, num_batches)


@pytest.mark.parametrize(("depth", "lag"), [(1, 1), (1, 4), (2, 2), (3, 3), (2, 4), (3, 5)])
def test_the_depth_is_held_at_its_setting_whichever_side_is_slower(depth: int, lag: int) -> None:
    for production_s, step_s in ((0.0, 0.004), (0.004, 0.0)):
        run = Run(RolloutBuffer(None, depth, lag, 12), lambda i, s=production_s: s, lambda i, s=step_s: s).go()
        assert run.problems == []
        assert [lease.depth_before for lease in run.leases[: 12 - depth + 1]] == [depth] * (12 - depth + 1)


def test_no_more_than_the_depth_is_ever_collected_ahead() -> None:
    buffer = RolloutBuffer(None, depth=2, max_policy_lag_steps=4, num_batches=9)
    assert [put_next(buffer).index for _ in range(2)] == [0, 1]
    waiting = in_thread(lambda: put_next(buffer))
    waiting.join(0.1)
    assert waiting.is_alive()
    assert buffer.depth == 2

    lease = take(buffer)  # makes room while the step still runs: collection overlaps training
    await_end(waiting)
    assert (lease.depth_before, buffer.depth) == (2, 2)


def test_without_lag_the_sides_alternate_strictly() -> None:
    run = Run(RolloutBuffer(None, 1, 0, 8), jitter(1, 1e-3), jitter(2, 1e-3)).go()
    assert run.problems == []
    assert run.overlapped == []
    assert [grant.policy_version for grant in run.granted] == list(range(8))
    assert [(lease.policy_lag_steps, lease.depth_before) for lease in run.leases] == [(0, 1)] * 8


@pytest.mark.parametrize("lag", range(1, 5))
def test_the_largest_depth_overlaps_and_ends(lag: int) -> None:
    buffer = RolloutBuffer(None, lag + 1, lag, 10)
    for _ in range(lag):
        put_next(buffer)
    first = take(buffer)  # does not wait for batch `lag`, which is then collected during the step
    assert put_next(buffer).index == lag
    buffer.acknowledge(first)
    run = Run(buffer, jitter(3, 1e-3), jitter(4, 1e-3)).go()
    assert run.problems == []
    assert [lease.batch.index for lease in run.leases] == list(range(1, 10))


def test_a_grant_names_the_version_to_sample_from() -> None:
    buffer = RolloutBuffer(None, depth=2, max_policy_lag_steps=1, num_batches=9, first_step=5)
    assert put_next(buffer) == SlotGrant(5, 5)
    lease = take(buffer)
    assert lease == Lease(make_batch(5, 5), 1, 0)
    assert put_next(buffer) == SlotGrant(6, 5)
    buffer.acknowledge(lease)
    assert take(buffer).policy_lag_steps == 1
    assert put_next(buffer) == SlotGrant(7, 6)


def test_a_stale_batch_is_dropped_and_collected_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    buffer = RolloutBuffer(tmp_path, depth=1, max_policy_lag_steps=1, num_batches=6, first_step=3)
    assert answer(buffer.wait_for_slot) == SlotGrant(3, 3)
    buffer.put(make_batch(3, 1))  # a producer that ignores the grant's version
    leases: list[Lease] = []
    trainer = in_thread(lambda: leases.append(take(buffer)))

    assert answer(buffer.wait_for_slot) == SlotGrant(3, 3)
    assert files(tmp_path) == []
    buffer.put(make_batch(3, 3))
    await_end(trainer)

    assert leases == [Lease(make_batch(3, 3), 1, 0)]
    assert buffer.num_stale_dropped == 1
    assert "batch 3 is over the lag budget" in caplog.text


@settings(threaded, max_examples=30)
@given(stale=st.sets(st.integers(0, 9)), depth=st.integers(1, 4), lag=st.integers(0, 3), seed=st.integers(0, 99))
def test_stale_batches_anywhere_are_replaced(stale: set[int], depth: int, lag: int, seed: int) -> None:
    class StaleAtFirst(RolloutBuffer):
        def put(self, batch: Batch) -> None:
            if batch.index in left:
                left.remove(batch.index)
                batch = make_batch(batch.index, batch.index - lag - 1)
            super().put(batch)

    left = set(stale)
    buffer = StaleAtFirst(None, depth, lag, 10)
    run = Run(buffer, jitter(seed, 1e-3), jitter(seed + 1, 1e-3)).go()
    assert run.problems == []
    assert [lease.batch.index for lease in run.leases] == list(range(10))
    assert all(0 <= lease.policy_lag_steps <= lag for lease in run.leases)
    assert buffer.num_stale_dropped == len(stale)


@settings(threaded, max_examples=40)
@given(
    depth=st.integers(1, 4),
    lag=st.integers(0, 4),
    after_s=st.sampled_from([0, 1e-4, 1e-3, 3e-3, 8e-3]),
    error=st.sampled_from([None, OSError("engine died")]),
    seed=st.integers(0, 99),
)
def test_closing_at_any_moment_ends_both_sides(
    depth: int, lag: int, after_s: float, error: OSError | None, seed: int
) -> None:
    buffer = RolloutBuffer(None, depth, lag, num_batches=10**9)

    def close() -> None:
        _pause(after_s)
        buffer.close(error)
        buffer.close(KeyError("only the first call counts"))

    run = Run(buffer, jitter(seed, 1e-3), jitter(seed + 1, 1e-3)).go(close)
    assert run.problems == ([] if error is None else [error, error])
    assert [lease.batch.index for lease in run.leases] == list(range(len(run.leases)))
    for side in (buffer.wait_for_slot, buffer.take):
        if error is not None:
            with pytest.raises(OSError, match="engine died"):
                side()
    assert len(run.leases) <= len(run.granted)


def test_an_error_that_leaves_the_with_block_reaches_the_other_side() -> None:
    buffer = RolloutBuffer(None, 1, 1, 5)
    with pytest.raises(ZeroDivisionError), buffer:
        _ = 1 // buffer.depth
    with pytest.raises(ZeroDivisionError):
        buffer.take()


def test_a_batch_is_a_file_until_its_step_need_not_be_repeated(tmp_path: Path) -> None:
    buffer = RolloutBuffer(tmp_path / "run", depth=2, max_policy_lag_steps=2, num_batches=9)
    put_next(buffer)
    put_next(buffer)
    assert files(tmp_path / "run") == ["batch-000000.arrow", "batch-000001.arrow"]
    lease = take(buffer)
    assert files(tmp_path / "run") == ["batch-000000.arrow", "batch-000001.arrow"]
    buffer.acknowledge(lease)
    assert files(tmp_path / "run") == ["batch-000000.arrow", "batch-000001.arrow"]
    buffer.forget_trained()
    assert files(tmp_path / "run") == ["batch-000001.arrow"]
    grant = answer(buffer.wait_for_slot)
    buffer.close()
    buffer.put(make_batch(2, 1))  # begun before the end: kept for the next start
    assert grant == SlotGrant(2, 1)
    assert files(tmp_path / "run") == ["batch-000001.arrow", "batch-000002.arrow"]


def test_a_new_buffer_starts_with_an_empty_folder(tmp_path: Path) -> None:
    put_next(RolloutBuffer(tmp_path, 1, 1, 5))
    (tmp_path / ".batch-000003.arrow.killed").write_text("half")
    (tmp_path / "notes.txt").write_text("not ours")
    buffer = RolloutBuffer(tmp_path, 1, 1, 5)
    assert buffer.depth == 0
    assert files(tmp_path) == ["notes.txt"]


def test_recovery_goes_on_with_the_batches_that_are_usable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index, policy_version in ((3, 2), (5, 4), (6, 5), (8, 5), (9, 9), (12, 5)):
        write_batch(tmp_path / f"batch-{index:06d}.arrow", make_batch(index, policy_version))
    write_batch(tmp_path / "batch-000010.arrow", make_batch(6, 5))
    (tmp_path / "batch-000007.arrow").write_bytes(b"damaged")

    buffer = RolloutBuffer.recover(tmp_path, depth=2, max_policy_lag_steps=3, num_batches=12, first_step=5)

    assert files(tmp_path) == ["batch-000005.arrow", "batch-000006.arrow", "batch-000008.arrow"]
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert "batch-000003" not in caplog.text  # nothing is lost: the checkpoint has trained on it
    for name in ("000007", "000009", "000010", "000012"):
        assert f"batch-{name}.arrow (" in caplog.text
    assert (buffer.depth, buffer.num_recorded) == (0, 3)
    run = Run(buffer).go()
    assert [lease.batch.index for lease in run.leases] == list(range(5, 12))
    assert [grant.index for grant in run.granted] == [7, 9, 10, 11]  # the gap, and what had not been collected
    by_index = {lease.batch.index: lease.batch.policy_version for lease in run.leases}
    assert (by_index[5], by_index[6], by_index[8]) == (4, 5, 5)
    assert run.max_depth_seen <= 2
    buffer.forget_trained()
    assert files(tmp_path) == []


def test_versions_that_were_lost_are_made_again_from_the_batches_that_made_them(tmp_path: Path) -> None:
    """Batches 5 to 7 made versions 6 to 8. Without batch 8 there is no version 9, nor what it sampled."""
    versions = {5: 4, 6: 5, 7: 7, 9: 8, 10: 9, 11: 8}
    for index, policy_version in versions.items():
        write_batch(tmp_path / f"batch-{index:06d}.arrow", make_batch(index, policy_version))
    buffer = RolloutBuffer.recover(tmp_path, depth=3, max_policy_lag_steps=3, num_batches=12, first_step=5)
    assert buffer.num_recorded == 5
    run = Run(buffer).go()

    assert [grant.index for grant in run.granted] == [8, 10]
    found = {lease.batch.index: lease.batch.policy_version for lease in run.leases}
    assert {index: found[index] for index in versions if index != 10} == {5: 4, 6: 5, 7: 7, 9: 8, 11: 8}


def test_another_training_does_not_make_the_lost_versions_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index, policy_version in ((5, 5), (6, 5), (7, 6)):
        write_batch(tmp_path / f"batch-{index:06d}.arrow", make_batch(index, policy_version))

    buffer = RolloutBuffer.recover(tmp_path, 2, 2, num_batches=9, first_step=5, repeats_training=False)

    assert buffer.num_recorded == 2
    assert "batch-000007.arrow (sampled from the lost version 6)" in caplog.text


def test_recovery_of_an_empty_folder_is_a_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    buffer = RolloutBuffer.recover(tmp_path / "new", 1, 1, num_batches=4, first_step=2)
    run = Run(buffer).go()
    assert [lease.batch.index for lease in run.leases] == [2, 3]
    assert caplog.records == []


def test_recovered_batches_over_a_smaller_budget_are_collected_again(tmp_path: Path) -> None:
    before = RolloutBuffer(tmp_path, depth=4, max_policy_lag_steps=4, num_batches=8)
    for _ in range(4):
        put_next(before)  # all from version 0
    buffer = RolloutBuffer.recover(tmp_path, depth=1, max_policy_lag_steps=1, num_batches=8, first_step=0)
    run = Run(buffer).go()
    assert run.problems == []
    assert [lease.batch.index for lease in run.leases] == list(range(8))
    assert max(lease.policy_lag_steps for lease in run.leases) <= 1
    assert [grant.index for grant in run.granted] == list(range(2, 8))


@settings(threaded, max_examples=25)
@given(
    kill_after=st.integers(0, 9),
    depth=st.integers(1, 4),
    lag=st.integers(0, 4),
    lost_steps=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_a_run_killed_anywhere_goes_on_without_a_loss(
    tmp_path_factory: pytest.TempPathFactory, kill_after: int, depth: int, lag: int, lost_steps: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("buffer")
    first = RolloutBuffer(folder, depth, lag, num_batches=10)

    class Kill(Exception):
        pass

    def step_s(step: int) -> float:
        if step == kill_after:
            first.close(Kill())
            raise Kill
        return 0.0

    killed = Run(first, jitter(seed, 1e-3), step_s).go()
    assert [lease.batch.index for lease in killed.leases] == list(range(kill_after + 1))
    checkpoint = max(0, kill_after - lost_steps)
    stored = files(folder)
    second = RolloutBuffer.recover(folder, depth, lag, num_batches=10, first_step=checkpoint)
    num_recorded = second.num_recorded
    run = Run(second, jitter(seed + 1, 1e-3)).go()
    second.forget_trained()

    assert run.problems == []
    assert [lease.batch.index for lease in run.leases] == list(range(checkpoint, 10))
    assert all(0 <= lease.policy_lag_steps <= lag for lease in run.leases)
    assert len(run.granted) == 10 - checkpoint - num_recorded
    assert num_recorded == len(stored) - checkpoint  # also the batch of the step that was killed
    assert [lease.batch for lease in run.leases[: kill_after + 1 - checkpoint]] == [
        lease.batch for lease in killed.leases[checkpoint:]
    ]
    assert files(folder) == []
