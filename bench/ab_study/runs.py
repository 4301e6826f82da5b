"""Runs of ``--grpo-against`` between two copies of this project."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_grpo.checkouts.worktrees import open_worktree

PROJECT = Path(__file__).resolve().parents[2]
_BURN = (
    "import random, time\nwhile True:\n    end = time.monotonic() + random.expovariate(1 / 2)\n"
    "    while time.monotonic() < end: pass\n    time.sleep(random.expovariate(1 / 2))\n"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A row of a run."""

    test: str
    metric: str
    outcome: str
    measured: float | None
    low: float | None
    high: float | None
    num_pairs: int | None
    reason: str

    @classmethod
    def of(cls, row: dict[str, Any]) -> Found:
        return cls(**{name: row[name] for name in cls.__slots__})

    def shown(self) -> str:
        if self.measured is None or self.low is None or self.high is None:
            return self.outcome
        return f"{self.measured:.3g} [{self.low:.3g}, {self.high:.3g}] {self.outcome}"


@contextmanager
def copy_of(revision: str) -> Iterator[Path]:
    """A worktree of ``revision``; the files in it may be changed."""
    command = ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]
    commit = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
    with open_worktree(PROJECT, commit, "grpo-ab-study-") as folder:
        yield folder


def compare(here: Path | str, other: Path | str, arguments: Sequence[str]) -> tuple[list[Found], float]:
    """The rows that compare ``here`` with ``other``, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.json"
        command = [sys.executable, "-m", "pytest_grpo.against.ab", str(here), str(other), "--"]
        start = time.perf_counter()
        options = ["-q", "bench", f"--grpo-json={rows}", "--grpo-inconclusive", "xfail", *arguments]
        done = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if not rows.exists():
            lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"no rows of {here} against {other}: {lines[-1]}")
        found = json.loads(rows.read_text(encoding="utf-8"))["rows"]
    return [Found.of(row) for row in found if row["outcome"]], seconds


@contextmanager
def noisy_neighbour() -> Iterator[None]:
    """A process that burns a core for random stretches of 2 s on average, half of the time."""
    process = subprocess.Popen([sys.executable, "-c", _BURN])
    try:
        yield
    finally:
        process.kill()
        process.wait()
