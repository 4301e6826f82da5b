"""The clock of one thread. At each moment one span has it: entering an inner span pauses the outer one.

So no moment is counted twice, and none is lost: what no span names is ``other``. A thread without a recorder pays one
look-up per span.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from grpo_core.ledger.account import OTHER, WAIT, Account, merged
from grpo_core.ledger.lane import Lane


class Recorder:
    """Keeps the account of the thread that it is bound to; only that thread calls it.

    ``idle`` is the span that has the thread while no other is open.
    """

    def __init__(self, process: str, thread: str, idle: str = OTHER, *, with_inner: bool = False) -> None:
        self.process = process
        self._with_inner = with_inner
        self._total: defaultdict[str, float] = defaultdict(float)  # in the windows before this one
        self._thread = thread
        self._open = [idle]
        self._finished: list[Account] = []
        self._begin(time.perf_counter())

    def enter(self, name: str) -> None:
        """``name`` has the clock until ``leave``, without what is entered meanwhile."""
        self._charge(time.perf_counter())
        self._open.append(name)

    def leave(self) -> None:
        """End the span that was entered last."""
        self._charge(time.perf_counter())
        self._open.pop()

    def adopt(self, accounts: Iterable[Account]) -> None:
        """Hand out ``accounts`` of threads that have ended, or that run elsewhere, with the next own one."""
        self._finished += accounts

    def take_over(self, inner: Recorder) -> None:
        """Give the time that ``inner`` had on this thread to its spans, if this recorder wants them."""
        if not self._with_inner:
            return
        inner.cut()
        self._charge(time.perf_counter())
        for name, seconds in inner._total.items():
            self._seconds[self._open[-1]] -= seconds
            self._seconds[name] += seconds

    def cut(self) -> list[Account]:
        """The account since the last cut, and those adopted since; one per thread. The next window begins here."""
        now = time.perf_counter()
        self._charge(now)
        own = Account(
            process=self.process,
            thread=self._thread,
            started_s=self._started_s,
            wall_s=now - self._began,
            seconds=dict(self._seconds),
            lane=self._lane.intervals(),
        )
        for name, seconds in self._seconds.items():
            self._total[name] += seconds
        accounts = merged([own, *self._finished])
        self._finished = []
        self._begin(now)
        return accounts

    def _begin(self, now: float) -> None:
        self._began = self._since = now
        self._started_s = time.time()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lane = Lane(now)

    def _charge(self, now: float) -> None:
        name = self._open[-1]
        self._seconds[name] += now - self._since
        self._lane.add(lane_name(name), self._since, now)
        self._since = now


def lane_name(name: str) -> str:
    """What a timeline shows for the span ``name``: a wait as it is, of any other the part before the dot."""
    return name if name.startswith(WAIT) else name.partition(".")[0]


class Bound(threading.local):
    """The recorder of the thread that asks."""

    recorder: Recorder | None = None


bound = Bound()


@contextmanager
def recording(process: str, thread: str, *, with_inner: bool = False) -> Iterator[Recorder]:
    """Record the calling thread for the length of the block, instead of what recorded it before.

    ``with_inner``: what a ``recording`` further in finds on this thread counts here, too.
    """
    before = bound.recorder
    bound.recorder = recorder = Recorder(process, thread, with_inner=with_inner)
    try:
        yield recorder
    finally:
        bound.recorder = before
        if before is not None:
            before.take_over(recorder)


@contextmanager
def recording_beside(thread: str, idle: str) -> Iterator[Callable[[], None]]:
    """Record a thread that is started and ends within the block. Yields what that thread calls first.

    Its account comes with the next one of the calling thread. Without a recorder here, there is none there.
    """
    parent = bound.recorder
    if parent is None:
        yield lambda: None
        return
    beside = Recorder(parent.process, thread, idle)
    has_ended = True
    try:
        yield lambda: _bind(beside)
    except KeyboardInterrupt:  # nobody waits for the thread
        has_ended = False
        raise
    finally:
        if has_ended:
            parent.adopt(beside.cut())


def adopt(accounts: Iterable[Account]) -> None:
    """``Recorder.adopt`` of the calling thread, if it is recorded."""
    if bound.recorder is not None:
        bound.recorder.adopt(accounts)


def _bind(recorder: Recorder) -> None:
    bound.recorder = recorder
