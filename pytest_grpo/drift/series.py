"""Stored runs as series: the ratio of one gate on one machine, run by run.

A gate is followed when it has pairs: as the ratio of its own two arms, and as each arm over its arm ``reference``. A
plain number or a count is not: its own threshold judges it exactly. Runs of another machine are another series. Other
software is not: a new version of torch may well be what slowed a gate down, so a change says which versions differ.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_grpo.baseline.files import Baseline
from pytest_grpo.baseline.fingerprint import Fingerprint, differing
from pytest_grpo.reports.references import with_references
from pytest_grpo.types import Row

WORSE_SIDES = {"at_least": -1, "at_most": 1}
"""-1 where a smaller ratio is worse, 1 where a larger one is. A band has no worse side."""


@dataclass(frozen=True, slots=True)
class Run:
    """A stored run. ``commit`` is empty outside of git."""

    name: str
    created_at: str
    """UTC, ISO 8601."""
    commit: str
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Gate:
    """What a series follows. ``worse_side`` is -1 or 1, None for a band."""

    nodeid: str
    metric: str
    system: str
    device: str
    phase: int | None
    worse_side: int | None

    @property
    def label(self) -> str:
        return self.metric if self.system == "grpo_core" else f"{self.metric} ({self.system})"


@dataclass(frozen=True, slots=True)
class Series:
    """The ratios of a gate on one machine, oldest first; ``runs`` and ``values`` are of one length."""

    machine: str
    gate: Gate
    runs: tuple[Run, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class History:
    """The series of all machines, and how many runs of which kind they were made of."""

    series: tuple[Series, ...]
    num_runs: dict[str, int]
    """Per machine."""
    num_dirty_runs: int
    """Left out: nobody knows which code they measured."""


def read_history(baselines: Sequence[Baseline]) -> History:
    """The series of ``baselines``, which are in the order of time."""
    points: dict[tuple[str, Gate], list[tuple[Run, float]]] = {}
    num_runs: dict[str, int] = {}
    clean = [baseline for baseline in baselines if not baseline.fingerprint.dirty]
    for baseline in clean:
        fingerprint = baseline.fingerprint
        machine = describe_machine(fingerprint)
        num_runs[machine] = num_runs.get(machine, 0) + 1
        run = Run(baseline.name, baseline.created_at, fingerprint.commit, fingerprint)
        for gate, value in _values(baseline).items():
            points.setdefault((machine, gate), []).append((run, value))
    series = [
        Series(machine, gate, tuple(run for run, _ in found), tuple(value for _, value in found))
        for (machine, gate), found in points.items()
    ]
    return History(tuple(series), num_runs, len(baselines) - len(clean))


def describe_machine(fingerprint: Fingerprint) -> str:
    """All that makes a machine another one, as text."""
    cores = f"{fingerprint.num_cores} core{'s' if fingerprint.num_cores != 1 else ''}"
    return ", ".join(filter(None, [fingerprint.cpu, cores, *fingerprint.gpus, fingerprint.os, fingerprint.machine]))


def differing_software(before: Run, after: Run) -> list[str]:
    """E.g. ``torch: 2.12.0 / 2.13.0``. Thresholds do not change what is measured."""
    return differing(*(replace(run.fingerprint, thresholds={}) for run in (before, after)))


def _values(baseline: Baseline) -> dict[Gate, float]:
    """The median ratio of each gate. Of a gate that a test decides twice, the last row counts."""
    return {
        _gate(nodeid, row): statistics.median(row.ratios)
        for nodeid, row in with_references(baseline.results)
        if row.ratios and not row.outcome and not (row.conditions or {}).get("problem")
    }


def _gate(nodeid: str, row: Row) -> Gate:
    return Gate(nodeid, row.metric, row.system_key, row.device, row.phase, WORSE_SIDES.get(row.kind))
