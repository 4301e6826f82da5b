"""A thread's timeline: few intervals, however often the thread changes what it does."""

from __future__ import annotations

from grpo_core.ledger.account import Interval

MAX_INTERVALS = 200
FIRST_RESOLUTION_S = 1e-3


class Lane:
    """Intervals that follow each other without a gap, at most ``MAX_INTERVALS``.

    One that is shorter than the resolution belongs to the interval before it, the first one to that after it. The
    resolution doubles when there are too many, so a long window has a coarser lane, and no more work per change.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._resolution_s = FIRST_RESOLUTION_S
        self._names: list[str] = []
        self._ends_s: list[float] = []

    def add(self, name: str, start_s: float, end_s: float) -> None:
        """The thread did ``name`` from the end of the interval before, ``start_s``, to ``end_s``."""
        names = self._names
        if names and (names[-1] == name or end_s - start_s < self._resolution_s):
            self._ends_s[-1] = end_s
            return
        if len(names) == 1 and self._ends_s[0] - self._start_s < self._resolution_s:
            names.clear()
            self._ends_s.clear()
        names.append(name)
        self._ends_s.append(end_s)
        if len(names) > MAX_INTERVALS:
            self._coarsen()

    def intervals(self) -> tuple[Interval, ...]:
        """What was added so far, in order."""
        starts_s = [self._start_s, *self._ends_s[:-1]]
        return tuple(
            Interval(name, start_s - self._start_s, end_s - start_s)
            for name, start_s, end_s in zip(self._names, starts_s, self._ends_s, strict=True)
        )

    def _coarsen(self) -> None:
        names, ends_s = self._names, self._ends_s
        self._names, self._ends_s = [], []
        self._resolution_s *= 2
        start_s = self._start_s
        for name, end_s in zip(names, ends_s, strict=True):
            self.add(name, start_s, end_s)
            start_s = end_s
