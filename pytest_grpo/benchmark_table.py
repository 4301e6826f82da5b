"""Puts the measured arms into pytest-benchmark's session, so that its saving, JSON and comparing show them.

pytest-benchmark has no public way to add samples that it did not take itself. This module is the only one that knows
its internals; tests/pytest_grpo/test_benchmark_table.py fails when they change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_grpo.report import Row


@dataclass(slots=True)
class _Origin:
    """What pytest-benchmark's ``Metadata`` reads of the fixture that took the samples."""

    name: str
    fullname: str
    group: str
    extra_info: dict[str, Any]
    param: None = None
    params: None = None
    cprofile_stats: None = None
    has_error: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def store(config: pytest.Config, rows: Iterable[tuple[str, Row]]) -> None:
    """Add one entry per arm of each (node id, row). Does nothing when pytest-benchmark is absent or disabled.

    An entry counts one iteration per unit of quantity, so its OPS is quantity per second, e.g. tokens/s. It is named
    ``<test>[<metric>:<arm>]`` and grouped by metric.
    """
    session = config.pluginmanager.get_plugin("pytest-benchmark")
    if session is None or session.disabled or session.skip:
        return
    measured = [(nodeid, row) for nodeid, row in rows if row.arms]
    if not measured:
        return
    commit = config.hook.pytest_benchmark_generate_commit_info(config=config)["id"]
    for nodeid, row in measured:
        for arm, samples in (row.arms or {}).items():
            session.benchmarks.append(_entry(nodeid, row, arm, samples, commit))


def _entry(nodeid: str, row: Row, arm: str, samples: list[list[float]], commit: str) -> Any:
    from pytest_benchmark.stats import Metadata

    label = f"[{row.metric}:{arm}]"
    origin = _Origin(
        name=nodeid.rpartition("::")[2] + label,
        fullname=nodeid + label,
        group=row.metric,
        extra_info={
            "verdict": row.verdict,
            "measured": row.measured,
            "interval": [row.low, row.high],
            "confidence": row.confidence,
            "pairs": row.num_pairs,
            "threshold": row.threshold,
            "device": row.device,
            "commit": commit,
        },
    )
    quantities = [quantity for quantity, _ in samples]
    entry = Metadata(origin, iterations=max(1, round(sum(quantities) / len(quantities))), options={})
    for quantity, seconds in samples:
        entry.stats.update(seconds / quantity)
    return entry
