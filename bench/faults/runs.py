"""Runs of the phases in a new process, with or without a planted fault, and their results."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.faults.fault import WRONG_ANSWERS, Fault
from grpo_core.home import write_json
from pytest_grpo.types import Verdict

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 1800
TIMED_OUT = 124
TAIL_LINES = 15


class Finding(BaseModel):
    """The stored part of a verdict row. Only a timing gate has ``num_pairs``."""

    model_config = ConfigDict(frozen=True)

    metric: str
    phase: int | None
    verdict: Verdict
    reason: str
    measured: float | None
    low: float | None
    high: float | None
    num_pairs: int | None
    threshold: str

    @property
    def is_red(self) -> bool:
        return self.verdict is Verdict.FAIL


class FaultRun(BaseModel):
    """One run of ``phases``, as ``--phase`` takes them; the ``number``-th with this ``fault``. ``tail`` is the end of
    its output when it has something to explain."""

    model_config = ConfigDict(frozen=True)

    fault: str | None
    phases: str
    number: int
    exit_code: int
    duration_s: float
    findings: tuple[Finding, ...]
    tail: str

    @property
    def key(self) -> tuple[str | None, str, int]:
        return self.fault, self.phases, self.number


class Result(StrEnum):
    """Whether a run detected its fault."""

    OK = "ok"
    MISSED = "missed"
    OTHERS_RED = "others red"
    INCONCLUSIVE = "inconclusive"
    NO_VERDICT = "no verdict"

    @property
    def is_final(self) -> bool:
        """Whether a repetition is unlikely to change the result."""
        return self in (Result.OK, Result.MISSED, Result.OTHERS_RED)


class Log:
    """The runs so far, stored in ``path`` if given."""

    def __init__(self, path: Path | None, runs: Sequence[FaultRun] = ()) -> None:
        self._path = path
        self._runs = {run.key: run for run in runs}

    @classmethod
    def open(cls, path: Path | None, *, fresh: bool) -> Log:
        """Raises ValueError, one line, when the file is damaged."""
        if path is None or fresh or not path.exists():
            return cls(path)
        try:
            return cls(path, _LogFile.model_validate_json(path.read_bytes()).runs)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "JSON"
            raise ValueError(
                f"{path}: not a log of planted faults ({where} is invalid); name another file, or add --fresh"
            ) from None

    def get(self, fault: str | None, phases: str, number: int) -> FaultRun | None:
        return self._runs.get((fault, phases, number))

    def add(self, run: FaultRun) -> None:
        """Store ``run``, in place of an older one with its key."""
        self._runs[run.key] = run
        if self._path is not None:
            write_json(self._path, _LogFile(runs=list(self._runs.values())).model_dump(mode="json"))


class _LogFile(BaseModel):
    runs: list[FaultRun]


def run_phases(fault: Fault | None, phases: str, number: int = 0, options: Sequence[str] = ()) -> FaultRun:
    """Run ``phases`` with ``fault`` planted; ``options`` go to pytest."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "pytest", "bench", "--phase", phases, "-q", "--color=no"]
        command += ["-o", "grpo_inconclusive=xfail", "-p", "bench.faults.plugin", "--plant-report", str(report)]
        command += ["--plant", fault.name] if fault is not None else []
        exit_code, output = _run([*command, *options])
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    findings = tuple(Finding.model_validate_json(line) for line in lines)
    is_explained = any(finding.is_red for finding in findings)
    return FaultRun(
        fault=fault.name if fault is not None else None,
        phases=phases,
        number=number,
        exit_code=exit_code,
        duration_s=round(time.perf_counter() - start, 1),
        findings=findings,
        tail="" if exit_code == 0 or is_explained else "\n".join(output.splitlines()[-TAIL_LINES:]),
    )


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of ``command``; ``TIMED_OUT`` when it did not end in time."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return TIMED_OUT, f"did not end within {TIMEOUT_S} s"
    return done.returncode, done.stdout


def expected_findings(fault: Fault, run: FaultRun) -> list[Finding]:
    """The findings on the metrics that must turn red."""
    return [finding for finding in run.findings if finding.metric in fault.metrics]


def other_red_gates(fault: Fault, run: FaultRun) -> list[str]:
    """Timing gates that turned red although they are not expected to.

    A fault that exact gates must see makes answers wrong, and a timing gate that says so has seen it, too.
    """
    is_exact = all(finding.num_pairs is None for finding in expected_findings(fault, run))
    return [
        finding.metric
        for finding in run.findings
        if finding.is_red
        and finding.num_pairs is not None
        and finding.metric not in fault.metrics
        and not (is_exact and WRONG_ANSWERS in finding.reason)
    ]


def judge(fault: Fault, run: FaultRun) -> Result:
    """Whether the run detected the fault as expected. Errors are not verdicts."""
    expected = expected_findings(fault, run)
    seen = {finding.metric for finding in expected if finding.is_red and fault.reason in finding.reason}
    if seen == set(fault.metrics):
        return Result.OTHERS_RED if other_red_gates(fault, run) else Result.OK
    if {finding.metric for finding in expected} != set(fault.metrics):
        return Result.NO_VERDICT
    if any(finding.verdict is Verdict.INCONCLUSIVE for finding in expected):
        return Result.INCONCLUSIVE
    return Result.MISSED
