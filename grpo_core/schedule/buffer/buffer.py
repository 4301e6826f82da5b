"""The queue between the rollout thread and the trainer: bounded in depth, bounded in age, durable.

Batch ``k`` is what training step ``k`` consumes, and step ``k`` starts from policy version ``k``. So the lag of a batch
when it is consumed is ``index - policy_version``, known before it starts:

- Batch ``i`` may start once ``i <= trainer_version + max_policy_lag_steps``. Sampled from the trainer's version of that
  moment or a newer one, it cannot be over the budget when its turn comes.
- It may start only within ``depth`` of the next batch to be taken. So at most ``depth`` batches ever wait.
- A step starts when ``depth`` batches wait, or ``max_policy_lag_steps`` if that is fewer: those could all start during
  the step before, so the wait never turns overlapped work into alternating work. This holds the depth at its setting
  also where rollouts are the slower side.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Self

from grpo_core.home import make_folder
from grpo_core.ledger import spans
from grpo_core.schedule.buffer.batch_file import batch_file_name, read_batch, write_batch
from grpo_core.schedule.buffer.recovery import find_usable
from grpo_core.types import Batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """The batch of one training step, until the step is acknowledged."""

    batch: Batch
    depth_before: int  # finished batches that waited when this one was taken, itself included
    policy_lag_steps: int
    num_stale_tokens: int = 0  # sampled tokens of batches that were dropped since the last lease: over the lag budget


class RolloutBuffer:
    """One producer thread calls ``wait_for_slot`` and ``put``; one trainer thread ``take`` and ``acknowledge``.

    With a ``folder`` each batch is a file there from ``put`` until ``forget_trained`` after its ``acknowledge``. The
    buffer starts empty, and so does the folder: ``recover`` is the way to keep the batches of an interrupted run.
    """

    def __init__(
        self,
        folder: Path | None,
        depth: int,
        max_policy_lag_steps: int,
        num_batches: int,
        first_step: int = 0,
        recorded: Collection[int] = (),
    ) -> None:
        """``num_batches`` is the total of the run from step 0; steps ``first_step`` to ``num_batches - 1`` are to come.

        Batches ``recorded`` are in the folder already: they are read when their turn comes, instead of collected.

        Raises:
            HomeError: the folder cannot be written.
        """
        assert depth >= 1
        assert max_policy_lag_steps >= 0
        self._folder = folder
        self._max_depth = depth
        self._max_policy_lag_steps = max_policy_lag_steps
        self._num_batches = num_batches
        self._trainer_version = first_step
        self._recorded = set(recorded)
        self._waiting: dict[int, Batch] = {}
        self._in_production: int | None = None
        self._lease: Lease | None = None
        self._is_closed = False
        self._error: BaseException | None = None
        self._num_stale_dropped = 0
        self._num_stale_tokens = 0
        self._changed = Condition()
        self._trained: list[int] = []  # acknowledged, and still in the folder
        if folder is not None:
            _clear(make_folder(folder), keep={batch_file_name(index) for index in recorded})

    @classmethod
    def recover(
        cls,
        folder: Path,
        depth: int,
        max_policy_lag_steps: int,
        num_batches: int,
        first_step: int,
        *,
        repeats_training: bool = True,
    ) -> RolloutBuffer:
        """A buffer that goes on at ``first_step`` with the usable batches in ``folder``.

        ``grpo_core.schedule.buffer.recovery`` says which are. The others are removed.

        Raises:
            HomeError: the folder cannot be written.
        """
        make_folder(folder)
        usable = find_usable(folder, max_policy_lag_steps, num_batches, first_step, repeats_training=repeats_training)
        return cls(folder, depth, max_policy_lag_steps, num_batches, first_step, usable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close(error)

    @property
    def depth(self) -> int:
        """Finished batches that wait now."""
        return len(self._waiting)

    @property
    def num_recorded(self) -> int:
        """Batches of an interrupted run that wait in the folder for their turn."""
        return len(self._recorded)

    @property
    def trainer_version(self) -> int:
        """Policy version of the trainer: steps acknowledged, counted from the run's step 0."""
        return self._trainer_version

    @property
    def num_stale_dropped(self) -> int:
        """Batches that were over the lag budget when their turn came, and were collected again."""
        return self._num_stale_dropped

    def wait_for_slot(self) -> int | None:
        """Producer: wait until a batch may start, from ``trainer_version`` or a newer one. Returns its index; None when
        no more are needed, or the buffer was closed.

        Recorded batches take their places meanwhile: they are never granted.

        Raises:
            StoredBatchError: a recorded batch was damaged since ``recover``.
            The error that the buffer was closed with.
        """
        while (index := self._wait_for_index()) is not None and index in self._recorded:
            assert self._folder is not None
            self._recorded.remove(index)
            with spans.STORE:
                batch = read_batch(self._folder / batch_file_name(index))
            self._hand_over(batch)
        return index

    def _wait_for_index(self) -> int | None:
        with spans.WAIT_ROOM, self._changed:
            assert self._in_production is None, "put the granted batch first"
            while not self._is_over(self._next_step):
                index = next(i for i in range(self._next_step, self._num_batches + 1) if i not in self._waiting)
                if index <= self._last_allowed:
                    self._in_production = index
                    return index
                self._changed.wait()
            return None

    def put(self, batch: Batch) -> None:
        """Producer: hand over the granted batch. Never waits. After ``close`` it is still stored in the folder.

        Raises:
            HomeError: the folder cannot be written.
        """
        assert batch.index == self._in_production, f"batch {batch.index} was not granted"
        if self._folder is not None:
            with spans.STORE:
                write_batch(self._folder / batch_file_name(batch.index), batch)
        self._hand_over(batch)

    def _hand_over(self, batch: Batch) -> None:
        with self._changed:
            self._in_production = None
            self._waiting[batch.index] = batch
            self._changed.notify_all()

    def take(self) -> Lease | None:
        """Trainer: wait for the batch of the next step. None when all steps are done, or the buffer was closed.

        A batch over the lag budget is never returned: it is dropped, counted, and its index granted again.

        Raises:
            The error that the buffer was closed with.
        """
        with spans.WAIT_BATCH, self._changed:
            assert self._lease is None, "acknowledge the last step first"
            while not self._is_over(self._trainer_version):
                self._drop_stale()
                if all(index in self._waiting for index in self._wanted):
                    depth_before = len(self._waiting)
                    batch = self._waiting.pop(self._trainer_version)
                    lag_steps = self._trainer_version - batch.policy_version
                    self._lease = Lease(batch, depth_before, lag_steps, self._num_stale_tokens)
                    self._num_stale_tokens = 0
                    self._changed.notify_all()
                    return self._lease
                self._changed.wait()
            return None

    def acknowledge(self, lease: Lease) -> None:
        """Trainer: the step is done and its adapter published."""
        with self._changed:
            assert lease is self._lease, "not the lease that was taken last"
            self._lease = None
            self._trainer_version += 1
            if self._folder is not None:
                self._trained.append(lease.batch.index)
            self._changed.notify_all()

    def forget_trained(self) -> None:
        """Trainer: nobody will need the acknowledged batches again. Removes their files."""
        with spans.STORE:
            while self._trained:
                self._remove_file(self._trained.pop())

    def close(self, error: BaseException | None = None) -> None:
        """Either side: no more batches. Both sides' waits end: they raise ``error``, or return None without one.

        The first call counts. Batches that wait stay in the folder.
        """
        with self._changed:
            if not self._is_closed:
                self._is_closed, self._error = True, error
            self._changed.notify_all()

    @property
    def _next_step(self) -> int:
        """Index of the next batch to be taken."""
        return self._trainer_version + (self._lease is not None)

    @property
    def _last_allowed(self) -> int:
        """Index of the last batch that may start now."""
        by_depth = self._next_step + self._max_depth - 1
        by_lag = self._trainer_version + self._max_policy_lag_steps
        return min(by_depth, by_lag, self._num_batches - 1)

    @property
    def _wanted(self) -> range:
        """Indices of the batches that must wait before a step starts."""
        first = self._trainer_version
        return range(first, min(first + min(self._max_depth, max(1, self._max_policy_lag_steps)), self._num_batches))

    def _is_over(self, next_step: int) -> bool:
        if self._error is not None:
            raise self._error
        return self._is_closed or next_step >= self._num_batches

    def _drop_stale(self) -> None:
        for index, batch in list(self._waiting.items()):
            if index - batch.policy_version > self._max_policy_lag_steps:
                logger.warning("batch %d is over the lag budget (policy version %d)", index, batch.policy_version)
                del self._waiting[index]
                self._remove_file(index)
                self._num_stale_dropped += 1
                self._num_stale_tokens += batch.stats.num_sampled_tokens
                self._changed.notify_all()

    def _remove_file(self, index: int) -> None:
        if self._folder is not None:
            (self._folder / batch_file_name(index)).unlink(missing_ok=True)


def _clear(folder: Path, keep: set[str]) -> None:
    """Remove the batch files of earlier runs, also those whose writing was interrupted."""
    for path in (*folder.glob("batch-*.arrow"), *folder.glob(".batch-*.arrow.*")):
        if path.name not in keep:
            path.unlink()
