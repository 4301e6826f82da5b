"""A producer and a trainer on one buffer, in real threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from hypothesis import Phase, settings

from grpo_core.schedule.buffer.buffer import Lease, RolloutBuffer
from grpo_core.types import Batch, RolloutStats

T = TypeVar("T")
# Threads make an example hard to repeat, so a failing one is not shrunk.
threaded = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def make_batch(index: int, policy_version: int) -> Batch:
    return Batch(index, policy_version, (), RolloutStats(1.0, 0, 0, 0, 0, num_sampled_tokens=9))


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


@dataclass(frozen=True)
class Slot:
    """Batch ``index`` may start, from ``policy_version`` or a newer one."""

    index: int
    policy_version: int


def wait_for_slot(buffer: RolloutBuffer) -> Slot | None:
    index = buffer.wait_for_slot()
    return None if index is None else Slot(index, buffer.trainer_version)


def put_next(buffer: RolloutBuffer) -> Slot:
    slot = answer(partial(wait_for_slot, buffer))
    assert slot is not None
    buffer.put(make_batch(slot.index, slot.policy_version))
    return slot


def take(buffer: RolloutBuffer) -> Lease:
    lease = answer(buffer.take)
    assert lease is not None
    return lease


@dataclass
class TwoSides:
    """A producer and a trainer on real threads, each with pauses of its own, and what they saw."""

    buffer: RolloutBuffer
    production_s: Callable[[int], float] = lambda index: 0.0
    step_s: Callable[[int], float] = lambda step: 0.0
    granted: list[Slot] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)
    max_depth_seen: int = 0
    step_running: threading.Event = field(default_factory=threading.Event)
    overlapped: list[int] = field(default_factory=list)  # batches begun while a step was running

    def produce(self) -> None:
        while (slot := wait_for_slot(self.buffer)) is not None:
            self.granted.append(slot)
            if self.step_running.is_set():
                self.overlapped.append(slot.index)
            pause(self.production_s(slot.index))
            self.buffer.put(make_batch(slot.index, slot.policy_version))
            self.max_depth_seen = max(self.max_depth_seen, self.buffer.depth)

    def train(self) -> None:
        while (lease := self.buffer.take()) is not None:
            self.leases.append(lease)
            self.step_running.set()
            pause(self.step_s(lease.batch.index))
            self.step_running.clear()
            self.buffer.acknowledge(lease)

    def go(self, *others: Callable[[], None]) -> TwoSides:
        """Until both sides have ended. A deadlock ends the test."""
        sides = (self.produce, self.train, *others)
        await_end(*[in_thread(partial(self._guard, side)) for side in sides])
        return self

    def _guard(self, side: Callable[[], None]) -> None:
        try:
            side()
        except Exception as error:  # each test judges them
            self.problems.append(error)


def pause(duration_s: float) -> None:
    if duration_s:
        time.sleep(duration_s)


def jitter(seed: int, scale_s: float) -> Callable[[int], float]:
    return lambda index: random.Random(f"{seed}/{index}").choice([0, 0, 0.3, 1]) * scale_s
