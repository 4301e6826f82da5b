"""The pytest plugin of ``bench/planted_faults.py``: ``-p bench.faults.plugin --plant NAME --plant-report FILE``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.faults import FAULTS, Fault
from pytest_grpo.types import Row

_FAULT = pytest.StashKey[Fault | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("planted faults")
    group.addoption("--plant", metavar="NAME", help="plant this fault for all tests of the session")
    group.addoption("--plant-report", metavar="FILE", help="append each verdict row to FILE, a line of JSON each")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("plant")
    faults = {fault.name: fault for fault in FAULTS}
    if name is not None and name not in faults:
        raise pytest.UsageError(f"--plant {name!r}: no such fault; choose one of {', '.join(sorted(faults))}")
    config.stash[_FAULT] = faults[name] if name is not None else None


@pytest.fixture(scope="session", autouse=True)
def planted_fault(pytestconfig: pytest.Config) -> Iterator[Fault | None]:
    """The fault that is on, for as long as tests run."""
    fault = pytestconfig.stash[_FAULT]
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            fault.plant(patch)
        yield fault


def pytest_grpo_verdict(config: pytest.Config, row: Row) -> None:
    report = config.getoption("plant_report")
    if report is not None:
        with Path(report).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
