"""CPU seconds by whom: this process with its children, everything else, and what a container's quota withheld."""

from __future__ import annotations

import functools
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")

OwnTimes = Mapping[psutil.Process, tuple[float, float]]
"""Per process: the CPU seconds of its own, and those of its children that have ended."""


@dataclass(frozen=True, slots=True)
class CpuUse:
    """Counters at one moment; two of them say who used the cores in between."""

    at_s: float
    machine_s: float
    """Used by anybody, or stolen by other virtual machines, on the cores that this process may use. 0 where the
    machine does not tell."""
    own: OwnTimes
    throttled_s: float
    """Withheld by the CPU quota of the container."""

    @classmethod
    def read(cls) -> CpuUse:
        """Takes about 2 ms, most of it to find the children."""
        return cls(time.monotonic(), _machine_s() or _cgroup_s("usage_usec"), _own_times(), _throttled_s())

    def others_since(self, before: CpuUse) -> float | None:
        """CPU seconds that this process and its children could not have; None where the machine does not tell."""
        machine_s = self.machine_s - before.machine_s
        if machine_s <= 0 and self.at_s - before.at_s > 0.1:
            return None
        others_s = max(0.0, machine_s - _used_between(before.own, self.own))
        return others_s + max(0.0, self.throttled_s - before.throttled_s)


def num_cores_for_us() -> int:
    """The cores that this process may use: its affinity, and the CPU quota of its container rounded up."""
    return max(1, math.ceil(min(_num_cores(), _quota_cores())))


def num_cores_out_of_reach() -> float:
    """The cores in ``CpuUse.machine_s`` that a quota keeps from this process: who uses them is not in its way."""
    return max(0.0, _num_cores() - _quota_cores())


def _used_between(before: OwnTimes, after: OwnTimes) -> float:
    """CPU seconds of the processes, those that began or ended in between included.

    When a child ends, its seconds move to the parent's second number. Those from before are subtracted once. A process
    whose parent ended first is nobody's child: its last seconds are unknown and count as 0.
    """
    stayed = [(before[process], after[process]) for process in before if process in after]
    running_s = sum(now[0] - then[0] for then, now in stayed)
    begun_s = sum(own_s + ended_s for process, (own_s, ended_s) in after.items() if process not in before)
    inherited_s = sum(now[1] - then[1] for then, now in stayed)
    known_s = sum(own_s + ended_s for process, (own_s, ended_s) in before.items() if process not in after)
    return running_s + begun_s + max(0.0, inherited_s - known_s)


def _own_times() -> OwnTimes:
    me = psutil.Process()
    found = {}
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has ended since
            continue
        found[process] = (times.user + times.system, times.children_user + times.children_system)
    return found


def _machine_s() -> float:
    allowed = _allowed_cores()
    if allowed is None or len(allowed) == os.cpu_count():
        return _busy_s(psutil.cpu_times()._asdict())
    cores = psutil.cpu_times(percpu=True)
    return sum(_busy_s(times._asdict()) for number, times in enumerate(cores) if number in allowed)


def _busy_s(times: Mapping[str, float]) -> float:
    """The busy seconds of all fields of ``psutil.cpu_times``; guest time is part of user time already."""
    return sum(times.values()) - sum(times.get(name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))


def _allowed_cores() -> set[int] | None:
    """None: all."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else None


def _num_cores() -> int:
    allowed = _allowed_cores()
    return len(allowed) if allowed is not None else os.cpu_count() or 1


def _throttled_s() -> float:
    # Version 1 counts nanoseconds, under another name.
    return _cgroup_s("throttled_usec") or 1e-3 * _cgroup_s("throttled_time")


def _cgroup_s(field: str) -> float:
    """A field of ``cpu.stat``, in microseconds there: the largest value among the cgroups of this process."""
    values = (line.split() for folder in cgroup_folders() for line in _lines(folder / "cpu.stat"))
    return 1e-6 * max((float(value) for name, value in values if name == field), default=0.0)


def _quota_cores() -> float:
    return min((cores for folder in cgroup_folders() for cores in _quotas(folder)), default=math.inf)


def _quotas(folder: Path) -> Iterator[float]:
    """The quotas of one cgroup, as version 2 and version 1 write it."""
    for line in _lines(folder / "cpu.max"):
        quota, period = line.split()
        if quota != "max":
            yield float(quota) / float(period)
    for quota, period in zip(_lines(folder / "cpu.cfs_quota_us"), _lines(folder / "cpu.cfs_period_us"), strict=False):
        if float(quota) > 0:
            yield float(quota) / float(period)


@functools.cache
def cgroup_folders() -> tuple[Path, ...]:
    """The folders of the cgroups that limit this process, outermost first. Empty where there are none."""
    found = []
    for line in _lines(OWN_CGROUPS):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        steps = Path(path.strip("/")).parts
        found += [root.joinpath(*steps[:depth]) for depth in range(len(steps) + 1)]
    return tuple(folder for folder in found if (folder / "cpu.stat").is_file())


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
