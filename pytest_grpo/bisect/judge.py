"""Judges the checked-out commit: ``git bisect run`` starts this file, which runs pytest in a new process.

``pytest_grpo.bisect.run`` copies this file out of the code under test, so it imports nothing of the project. It does
not import pytest either, to start quickly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

GOOD, BAD, SKIP = 0, 1, 125  # exit codes of a ``git bisect run`` script
VERDICT_NAMES = {GOOD: "good", BAD: "bad", SKIP: "cannot be judged"}
_OK, _TESTS_FAILED, _USAGE_ERROR = 0, 1, 4  # of pytest


def judge(job: dict[str, Any]) -> int:
    """Run pytest as ``job`` says, log the judgement and return ``GOOD``, ``BAD`` or ``SKIP``."""
    rows_file = Path(job["log"]).with_suffix(".rows")
    rows_file.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", job["plugin"], *job["arguments"]],
        cwd=job["folder"],
        env=environment | job["environment"] | {"GRPO_BISECT_ROWS": str(rows_file)},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    code, reason = _decide(rows, done.returncode, done.stdout + done.stderr)
    commit = _git(job["folder"], "rev-parse", "HEAD")
    judgement = {"commit": commit, "code": code, "reason": reason, "lines": [_line(row) for row in rows]}
    _append(Path(job["log"]), judgement)
    subject = _git(job["folder"], "log", "-1", "--format=%h %s")
    print(f"{VERDICT_NAMES[code]}: {subject}: {reason}", file=sys.stderr, flush=True)
    return code


def _decide(rows: list[dict[str, Any]], exit_code: int, output: str) -> tuple[int, str]:
    """The exit code for git, and the reason."""
    failed, inconclusive = (
        ", ".join(row["metric"] for row in rows if row["verdict"] == verdict) for verdict in ("fail", "inconclusive")
    )
    if failed and exit_code in (_OK, _TESTS_FAILED, _USAGE_ERROR):  # earlier versions end a red session with 4, too
        return BAD, f"fail: {failed}"
    if exit_code not in (_OK, _TESTS_FAILED) or not rows:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        why = f"pytest exit code {exit_code}" if exit_code != _OK else "no gate was measured"
        return SKIP, f"{why}: {lines[-1] if lines else 'no output'}"
    if inconclusive:
        return SKIP, f"inconclusive: {inconclusive}"
    if exit_code != _OK:
        return SKIP, "a test failed without a verdict"
    return GOOD, f"pass: {', '.join(row['metric'] for row in rows)}"


def _line(row: dict[str, Any]) -> str:
    interval = "" if row.get("low") is None else f" [{row['low']:.4g}, {row['high']:.4g}]"
    reason = f": {row['reason']}" if row.get("reason") else ""
    return f"{row['metric']}: {row['verdict']}: {row['measured']:.4g}{interval}, threshold {row['threshold']}{reason}"


def _git(folder: str, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _append(path: Path, content: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def _leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report a crash as SKIP; Python's exit code 1 would mark the commit bad."""
    sys.__excepthook__(kind, error, trace)
    os._exit(130 if kind is KeyboardInterrupt else SKIP)


if __name__ == "__main__":
    sys.excepthook = _leave
    sys.exit(judge(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
