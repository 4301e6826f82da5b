from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_grpo.measuring.machine import cpu_use
from pytest_grpo.measuring.machine.cpu_use import CpuUse, OwnTimes

BURN = "import time\nwhile time.process_time() < {seconds}: pass\nprint(flush=True)\ninput()"


def use(at_s: float, machine_s: float, own: OwnTimes | None = None, throttled_s: float = 0.0) -> CpuUse:
    return CpuUse(at_s, machine_s, own or {}, throttled_s)


class Named(psutil.Process):
    """A process that is equal to itself only."""

    def __init__(self, name: str) -> None:
        self.name_here = name

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


ME, CHILD, GRANDCHILD = map(Named, ("me", "child", "grandchild"))


@pytest.mark.parametrize(
    ("before", "after", "used_s"),
    [
        ({ME: (1.0, 5.0)}, {ME: (3.0, 5.0)}, 2.0),
        ({ME: (1.0, 0.0)}, {ME: (1.0, 0.0), CHILD: (2.0, 0.5)}, 2.5),  # begun
        ({ME: (1.0, 0.0), CHILD: (2.0, 0.0)}, {ME: (1.0, 0.0), CHILD: (5.0, 0.0)}, 3.0),  # running
        ({ME: (1.0, 0.0), CHILD: (2.0, 0.5)}, {ME: (1.0, 4.0)}, 1.5),  # ended: only what is new counts
        ({ME: (1.0, 0.0)}, {ME: (1.0, 3.0)}, 3.0),  # begun and ended in between
        ({ME: (1.0, 0.0), CHILD: (0.0, 0.0), GRANDCHILD: (9.0, 0.0)}, {ME: (1.0, 9.5)}, 0.5),  # both ended
        ({ME: (1.0, 0.0), CHILD: (0.0, 0.0), GRANDCHILD: (9.0, 0.0)}, {ME: (2.0, 0.0)}, 1.0),  # nobody's child now
    ],
)
def test_children_are_counted_once_whatever_becomes_of_them(before: OwnTimes, after: OwnTimes, used_s: float) -> None:
    assert use(10.0, 100.0 + used_s, after).others_since(use(0.0, 100.0, before)) == pytest.approx(0.0)
    assert use(10.0, 107.0 + used_s, after).others_since(use(0.0, 100.0, before)) == pytest.approx(7.0)


def test_what_a_quota_withholds_is_taken_by_others() -> None:
    assert use(10.0, 103.0, {ME: (3.0, 0.0)}, throttled_s=2.5).others_since(use(0.0, 100.0, {ME: (0.0, 0.0)})) == 2.5


def test_a_machine_that_does_not_tell_is_unknown() -> None:
    assert use(10.0, 0.0, {ME: (3.0, 0.0)}).others_since(use(0.0, 0.0, {ME: (0.0, 0.0)})) is None


def test_running_children_are_not_others() -> None:
    before = CpuUse.read()
    child = subprocess.Popen(
        [sys.executable, "-c", BURN.format(seconds=0.3)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()  # it has burnt its CPU time and still runs
    running = CpuUse.read()
    child.communicate("\n")
    ended = CpuUse.read()
    for now in (running, ended):
        own_s = cpu_use._used_between(before.own, now.own)
        assert own_s >= 0.25  # the counters advance in steps of 10 ms
        assert now.others_since(before) == pytest.approx(max(0.0, now.machine_s - before.machine_s - own_s))


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A container whose cgroup is ``outer/inner``."""
    monkeypatch.setattr(cpu_use, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpu_use, "OWN_CGROUPS", tmp_path / "self")
    monkeypatch.setattr(cpu_use, "_num_cores", lambda: 64)
    cpu_use.cgroup_folders.cache_clear()
    yield tmp_path
    cpu_use.cgroup_folders.cache_clear()


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_a_container_tells_its_quota_and_what_it_withheld(cgroups: Path) -> None:
    (cgroups / "self").write_text("0::/outer/inner\n")
    write(cgroups, cpu__stat="usage_usec 9000000\n")
    write(
        cgroups / "outer",
        cpu__stat="usage_usec 5000000\nnr_throttled 3\nthrottled_usec 1500000\n",
        cpu__max="250000 100000\n",
    )
    write(cgroups / "outer" / "inner", cpu__stat="usage_usec 1000000\nthrottled_usec 0\n", cpu__max="max 100000\n")
    assert cpu_use._throttled_s() == 1.5
    assert cpu_use.num_cores_for_us() == 3
    assert cpu_use.num_cores_out_of_reach() == 61.5


def test_the_first_version_of_cgroups_is_read_too(cgroups: Path) -> None:
    (cgroups / "self").write_text("5:memory:/x\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n")
    write(
        cgroups / "cpu,cpuacct",
        cpu__stat="nr_periods 7\nthrottled_time 2000000000\n",
        cpu__cfs_quota_us="400000\n",
        cpu__cfs_period_us="100000\n",
    )
    assert cpu_use._throttled_s() == 2.0
    assert cpu_use.num_cores_for_us() == 4


def test_without_cgroups_all_cores_are_in_reach(cgroups: Path) -> None:
    assert cpu_use.cgroup_folders() == ()
    assert (cpu_use._throttled_s(), cpu_use.num_cores_out_of_reach()) == (0.0, 0.0)
    assert cpu_use.num_cores_for_us() == 64


def test_where_the_machine_is_hidden_the_cgroup_says_who_shares_the_container(
    cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cgroups / "self").write_text("0::/\n")
    write(cgroups, cpu__stat="usage_usec 7000000\n")
    monkeypatch.setattr(cpu_use, "_machine_s", lambda: 0.0)
    assert CpuUse.read().machine_s == 7.0


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_cores_that_this_process_may_not_use_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [psutil.cpu_times()._replace(user=float(10**core), system=0.0, nice=0.0) for core in range(4)]
    quiet = [one._replace(**{name: 0.0 for name in one._fields if name not in ("user", "idle")}) for one in times]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu=False: quiet if percpu else quiet[0])
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(cpu_use, "_allowed_cores", lambda: {1, 3})
    assert cpu_use._machine_s() == pytest.approx(1010.0)
