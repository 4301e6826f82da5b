"""What a ledger says about one thread: a stretch of its wall clock, and the span that had each moment of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

OTHER = "other"
"""The name of what no span names."""

WAIT = "wait."
"""How the names of waits begin: their thread is idle."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of a thread's lane, from ``start_s`` after the account's own start."""

    name: str
    start_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Account:
    """A window of one thread. ``seconds`` of all names together are ``wall_s``, up to rounding: each moment has one."""

    process: str
    thread: str
    started_s: float  # since 1970, UTC
    wall_s: float
    seconds: Mapping[str, float] = field(default_factory=dict)  # by span; what is missing did not run
    lane: tuple[Interval, ...] = ()

    @property
    def other_s(self) -> float:
        """What no span names."""
        return self.seconds.get(OTHER, 0.0)

    @property
    def idle_s(self) -> float:
        """All waits."""
        return sum(seconds for name, seconds in self.seconds.items() if name.startswith(WAIT))


def merged(accounts: Iterable[Account]) -> list[Account]:
    """One account per thread. A thread that ran several times has the sum of its windows, in the order they began."""
    threads: dict[tuple[str, str], list[Account]] = defaultdict(list)
    for account in sorted(accounts, key=lambda account: account.started_s):
        threads[account.process, account.thread].append(account)
    return [_joined(windows) for windows in threads.values()]


def _joined(windows: list[Account]) -> Account:
    first = windows[0]
    if len(windows) == 1:
        return first
    seconds: dict[str, float] = defaultdict(float)
    for window in windows:
        for name, spent in window.seconds.items():
            seconds[name] += spent
    lane = [
        Interval(part.name, window.started_s - first.started_s + part.start_s, part.seconds)
        for window in windows
        for part in window.lane
    ]
    wall_s = sum(window.wall_s for window in windows)
    return Account(first.process, first.thread, first.started_s, wall_s, dict(seconds), tuple(lane))
