from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pytest_grpo.baseline.files import Baseline
from pytest_grpo.baseline.fingerprint import Fingerprint, take_fingerprint
from pytest_grpo.types import Row
from tests.pytest_grpo.drift.stored_runs import FIRST_DAY, NODEID, Store, row


@pytest.fixture
def fingerprint(tmp_path: Path) -> Fingerprint:
    return replace(take_fingerprint(tmp_path, {}), cpu="Abacus 9", num_cores=2, gpus=(), os="Linux", machine="x86_64")


@pytest.fixture
def make_runs(fingerprint: Fingerprint) -> Store:
    """A run a day, of a commit of its own each unless told; its rows are those of ``make_rows(seconds)``."""

    def make(
        seconds: Sequence[float],
        *,
        make_rows: Callable[[float], list[Row]] = lambda step_s: [row(step_s)],
        prefix: str = "run",
        commits: Sequence[str] | None = None,
        **machine: object,
    ) -> list[Baseline]:
        return [
            Baseline(
                f"{prefix}{day}",
                (FIRST_DAY + timedelta(days=day)).isoformat(timespec="microseconds"),
                replace(fingerprint, commit=commits[day] if commits else f"{day:02}" * 20, **machine),  # type: ignore[arg-type]
                [(NODEID, each) for each in make_rows(step_s)],
            )
            for day, step_s in enumerate(seconds)
        ]

    return make
