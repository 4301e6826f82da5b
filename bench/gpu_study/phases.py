"""The phases on this device, each gate with its verdict."""

from __future__ import annotations

from collections.abc import Iterator

from bench.faults.runs import run_phases
from bench.gpu_study.row import Row, Work


def judge_phases(work: Work) -> Iterator[Row]:
    """On the embedded default, with the thresholds of this device."""
    run = run_phases(None, work.phases, options=("--grpo-budget", str(work.budget_s)))
    for finding in run.findings:
        note = f"{finding.verdict.value}, {finding.threshold}" + (f": {finding.reason}" if finding.reason else "")
        yield Row(name=f"phase{finding.phase}_{finding.metric}", value=finding.measured, note=note)
    if not run.findings:
        said = run.tail.splitlines()[-1] if run.tail else f"exit code {run.exit_code}"
        yield Row(name="phases", value=None, note=f"no verdict: {said}")
