"""Adds the measured arms to pytest-benchmark's session, so that its reports, JSON and comparisons include them.

It also transfers what the ``benchmark`` fixture measured on a worker to the session that reports.

pytest-benchmark has no public API for samples that it did not take itself. Only this module uses its internals;
tests/pytest_grpo/reports/test_pytest_benchmark.py fails when they change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import pytest

from pytest_grpo.reports.table import arm_quantity
from pytest_grpo.types import RATE_SUFFIX, Row

MS_SUFFIX = "_ms"
SAVING_OPTIONS = (
    *("benchmark_save", "benchmark_autosave", "benchmark_json", "benchmark_compare", "benchmark_compare_fail"),
    *("benchmark_histogram", "benchmark_cprofile_dump"),
)
"""Options of pytest-benchmark that save or compare results."""
_RUN_FLAGS = ("skip", "disable", "enable", "only", "disable_gc")
_RUN_VALUES = ("min_time", "max_time", "min_rounds", "calibration_precision", "warmup", "warmup_iterations")


@dataclass(slots=True)
class Origin:
    """The attributes of the ``benchmark`` fixture that pytest-benchmark's ``Metadata`` reads."""

    name: str
    fullname: str
    group: str
    extra_info: dict[str, Any]
    param: Any = None
    params: Any = None
    cprofile_stats: None = None
    has_error: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def store(config: pytest.Config, rows: Iterable[tuple[str, Row]], fingerprint: Mapping[str, str] | None = None) -> None:
    """Add one entry per arm of each (node id, row). Does nothing when pytest-benchmark is absent or disabled.

    An entry is named ``<test>[<metric>:<arm>]`` and grouped by metric. Where a rate was compared, it counts one
    iteration per unit, so that its OPS is that rate, e.g. tokens/s.
    """
    session = config.pluginmanager.get_plugin("pytest-benchmark")
    if session is None or session.disabled or session.skip:
        return
    measured = [(nodeid, row) for nodeid, row in rows if row.arms]
    if not measured:
        return
    about = {"commit": config.hook.pytest_benchmark_generate_commit_info(config=config)["id"]}
    for nodeid, row in measured:
        info = {**describe(row), **about, "fingerprint": dict(fingerprint or {})}
        # pytest-benchmark cannot write an entry without samples.
        session.benchmarks += [entry for arm in row.arms or {} if (entry := _entry(nodeid, row, arm, info))]


def entries(config: pytest.Config) -> list[dict[str, Any]]:
    """What the fixture has measured so far in this process, as JSON for ``add_entries``."""
    session = config.pluginmanager.get_plugin("pytest-benchmark")
    if session is None:
        return []
    return [
        {"has_error": bool(entry.has_error), "samples": entry.stats.data, "iterations": entry.iterations}
        | entry.as_dict(include_data=False, stats=False)
        for entry in session.benchmarks
    ]


def add_entries(config: pytest.Config, added: Iterable[Mapping[str, Any]]) -> None:
    """Add entries of another process, as if the fixture had run here."""
    session = config.pluginmanager.get_plugin("pytest-benchmark")
    if session is None or session.disabled or session.skip:
        return
    from pytest_benchmark.stats import Metadata

    names = ("name", "fullname", "group", "extra_info", "param", "params", "has_error")
    for given in added:
        entry = Metadata(Origin(**{name: given[name] for name in names}), given["iterations"], given["options"])
        for sample in given["samples"]:
            entry.stats.update(sample)
        session.benchmarks.append(entry)


def machine_info(config: pytest.Config) -> dict[str, Any] | None:
    """pytest-benchmark's description of this machine, which takes a second or two; None without it."""
    session = config.pluginmanager.get_plugin("pytest-benchmark")
    return None if session is None else session.get_machine_info()


def wants_machine_info(config: pytest.Config) -> bool:
    """Whether this session saves or compares results, which needs the description of the machine."""
    return any(config.getoption(name, None) for name in SAVING_OPTIONS)


def run_arguments(config: pytest.Config) -> list[str]:
    """pytest-benchmark's measurement options, for a worker."""
    flags = [
        f"--benchmark-{name.replace('_', '-')}" for name in _RUN_FLAGS if config.getoption(f"benchmark_{name}", None)
    ]
    given = ((name, config.getoption(f"benchmark_{name}", None)) for name in _RUN_VALUES)
    return flags + [
        f"--benchmark-{name.replace('_', '-')}={_as_option(value)}" for name, value in given if value is not None
    ]


def _as_option(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def describe(row: Row) -> dict[str, Any]:
    """The verdict, for ``extra_info``."""
    return {
        "verdict": row.verdict,
        "reason": row.reason,
        "measured": row.measured,
        "interval": [row.low, row.high],
        "confidence": row.confidence,
        "pairs": row.num_pairs,
        "threshold": row.threshold,
        "source": row.source,
        "device": row.device,
        "system": row.system,
        "conditions": row.conditions,
    }


def timings(row: Row, arm: str) -> tuple[int, list[float]]:
    """Iterations per sample, and each sample's seconds per iteration.

    For a rate, an iteration is one unit, e.g. a token. Otherwise it is one run: the compared time, or the arm's
    seconds when the compared quantity is not a time.
    """
    seconds = (row.arms or {})[arm]["seconds"]
    quantity = row.quantity or "seconds"
    values = arm_quantity(row, arm)
    if quantity.endswith(RATE_SUFFIX) and values is not seconds:
        units = [rate * taken for rate, taken in zip(values, seconds, strict=True)]
        return max(1, round(mean(units))), [1 / rate for rate in values if rate > 0]
    if quantity.endswith(MS_SUFFIX) and values is not seconds:
        return 1, [value / 1000 for value in values]
    return 1, seconds


def own_name(nodeid: str) -> str:
    """The test's name, with its parameters: they may have ``::`` in them."""
    path, bracket, parameters = nodeid.partition("[")
    return f"{path.rpartition('::')[2]}{bracket}{parameters}"


def _entry(nodeid: str, row: Row, arm: str, info: dict[str, Any]) -> Any:
    from pytest_benchmark.stats import Metadata

    label = f"[{row.metric}:{arm}]"
    origin = Origin(name=own_name(nodeid) + label, fullname=nodeid + label, group=row.metric, extra_info=info)
    iterations, samples = timings(row, arm)
    entry = Metadata(origin, iterations=iterations, options={})
    for sample in samples:
        entry.stats.update(sample)
    return entry
