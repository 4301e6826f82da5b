"""The files of a buffer, and what a run that goes on finds in them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.schedule.buffer.batch_file import write_batch
from grpo_core.schedule.buffer.buffer import RolloutBuffer
from tests.grpo_core.schedule.buffer.two_sides import (
    TwoSides,
    answer,
    files,
    jitter,
    make_batch,
    put_next,
    take,
    threaded,
)


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
    index = answer(buffer.wait_for_slot)
    buffer.close()
    buffer.put(make_batch(2, 1))  # begun before the end: kept for the next start
    assert index == 2
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
    run = TwoSides(buffer).go()
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
    run = TwoSides(buffer).go()

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
    run = TwoSides(buffer).go()
    assert [lease.batch.index for lease in run.leases] == [2, 3]
    assert caplog.records == []


def test_recovered_batches_over_a_smaller_budget_are_collected_again(tmp_path: Path) -> None:
    before = RolloutBuffer(tmp_path, depth=4, max_policy_lag_steps=4, num_batches=8)
    for _ in range(4):
        put_next(before)  # all from version 0
    buffer = RolloutBuffer.recover(tmp_path, depth=1, max_policy_lag_steps=1, num_batches=8, first_step=0)
    run = TwoSides(buffer).go()
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

    killed = TwoSides(first, jitter(seed, 1e-3), step_s).go()
    assert [lease.batch.index for lease in killed.leases] == list(range(kill_after + 1))
    checkpoint = max(0, kill_after - lost_steps)
    stored = files(folder)
    second = RolloutBuffer.recover(folder, depth, lag, num_batches=10, first_step=checkpoint)
    num_recorded = second.num_recorded
    run = TwoSides(second, jitter(seed + 1, 1e-3)).go()
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
