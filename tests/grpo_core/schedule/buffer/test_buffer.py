from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.schedule.buffer.buffer import Lease, RolloutBuffer
from grpo_core.types import Batch
from tests.grpo_core.schedule.buffer.two_sides import (
    Slot,
    TwoSides,
    answer,
    await_end,
    files,
    in_thread,
    jitter,
    make_batch,
    pause,
    put_next,
    take,
    threaded,
)


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
    run = TwoSides(buffer, jitter(seed, speeds[0]), jitter(seed + 1, speeds[1])).go()

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
        run = TwoSides(RolloutBuffer(None, depth, lag, 12), lambda i, s=production_s: s, lambda i, s=step_s: s).go()
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
    run = TwoSides(RolloutBuffer(None, 1, 0, 8), jitter(1, 1e-3), jitter(2, 1e-3)).go()
    assert run.problems == []
    assert run.overlapped == []
    assert [slot.policy_version for slot in run.granted] == list(range(8))
    assert [(lease.policy_lag_steps, lease.depth_before) for lease in run.leases] == [(0, 1)] * 8


@pytest.mark.parametrize("lag", range(1, 5))
def test_the_largest_depth_overlaps_and_ends(lag: int) -> None:
    buffer = RolloutBuffer(None, lag + 1, lag, 10)
    for _ in range(lag):
        put_next(buffer)
    first = take(buffer)  # does not wait for batch `lag`, which is then collected during the step
    assert put_next(buffer).index == lag
    buffer.acknowledge(first)
    run = TwoSides(buffer, jitter(3, 1e-3), jitter(4, 1e-3)).go()
    assert run.problems == []
    assert [lease.batch.index for lease in run.leases] == list(range(1, 10))


def test_a_slot_is_granted_for_the_version_of_the_trainer() -> None:
    buffer = RolloutBuffer(None, depth=2, max_policy_lag_steps=1, num_batches=9, first_step=5)
    assert put_next(buffer) == Slot(5, 5)
    lease = take(buffer)
    assert lease == Lease(make_batch(5, 5), 1, 0)
    assert put_next(buffer) == Slot(6, 5)
    buffer.acknowledge(lease)
    assert take(buffer).policy_lag_steps == 1
    assert put_next(buffer) == Slot(7, 6)


def test_a_stale_batch_is_dropped_and_collected_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    buffer = RolloutBuffer(tmp_path, depth=1, max_policy_lag_steps=1, num_batches=6, first_step=3)
    assert answer(buffer.wait_for_slot) == 3
    buffer.put(make_batch(3, 1))  # a producer that samples from an older version
    leases: list[Lease] = []
    trainer = in_thread(lambda: leases.append(take(buffer)))

    assert answer(buffer.wait_for_slot) == 3
    assert files(tmp_path) == []
    buffer.put(make_batch(3, 3))
    await_end(trainer)

    assert leases == [Lease(make_batch(3, 3), 1, 0, num_stale_tokens=make_batch(3, 1).stats.num_sampled_tokens)]
    assert leases[0].num_stale_tokens > 0
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
    run = TwoSides(buffer, jitter(seed, 1e-3), jitter(seed + 1, 1e-3)).go()
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
        pause(after_s)
        buffer.close(error)
        buffer.close(KeyError("only the first call counts"))

    run = TwoSides(buffer, jitter(seed, 1e-3), jitter(seed + 1, 1e-3)).go(close)
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
