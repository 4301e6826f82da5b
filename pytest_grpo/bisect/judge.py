"""Judges the checked-out commit: ``git bisect run`` starts this file, which runs pytest in new processes.

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
WORSE, NOT_WORSE = ("slower", "more"), ("same", "faster", "less")
"""Outcomes of a comparison of two versions that judge a commit; any other one does not."""
_OK, _TESTS_FAILED, _USAGE_ERROR = 0, 1, 4  # of pytest


def judge(job: dict[str, Any]) -> int:
    """Run the commit as ``job`` says, log the judgement and return ``GOOD``, ``BAD`` or ``SKIP``."""
    commit = _git(job["tree"], "rev-parse", "HEAD")
    found = _judge_change(job, commit) if job["metric"] else _judge_verdicts(job)
    _append(Path(job["log"]), {"commit": commit, **found})
    subject = _git(job["tree"], "log", "-1", "--format=%h %s")
    print(f"{VERDICT_NAMES[found['code']]}: {subject}: {found['reason']}", file=sys.stderr, flush=True)
    return found["code"]


def _judge_verdicts(job: dict[str, Any]) -> dict[str, Any]:
    """Whether the gates of the commit pass."""
    rows_file = Path(job["log"]).with_suffix(".rows")
    rows_file.unlink(missing_ok=True)
    exit_code, output = _run(job, job["command"], {"GRPO_BISECT_ROWS": str(rows_file)})
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    code, reason = _decide(rows, exit_code, output)
    return {"code": code, "reason": reason, "lines": [_line(row) for row in rows]}


def _judge_change(job: dict[str, Any], commit: str) -> dict[str, Any]:
    """Whether the metric is worse on ``commit`` than on the commit that it is compared with."""
    rows_file = Path(job["log"]).with_suffix(".json")
    rows_file.unlink(missing_ok=True)
    command = [*job["command"], commit, job["against"], *job["arguments"], "--grpo-json", str(rows_file)]
    _, output = _run(job, command)
    rows = json.loads(rows_file.read_text(encoding="utf-8"))["rows"] if rows_file.exists() else []
    code, reason = _decide_change(rows, job["metric"], output)
    return {
        "code": code,
        "reason": reason,
        "lines": [_describe(row) for row in rows if row["metric"] == job["metric"]],
        "measured": _measured(rows),
    }


def _decide(rows: list[dict[str, Any]], exit_code: int, output: str) -> tuple[int, str]:
    """The exit code for git, and the reason."""
    failed, inconclusive = (
        ", ".join(row["metric"] for row in rows if row["verdict"] == verdict) for verdict in ("fail", "inconclusive")
    )
    if failed and exit_code in (_OK, _TESTS_FAILED, _USAGE_ERROR):  # earlier versions end a red session with 4, too
        return BAD, f"fail: {failed}"
    if exit_code not in (_OK, _TESTS_FAILED) or not rows:
        why = f"pytest exit code {exit_code}" if exit_code != _OK else "no gate was measured"
        return SKIP, f"{why}: {_last_line(output)}"
    if inconclusive:
        return SKIP, f"inconclusive: {inconclusive}"
    if exit_code != _OK:
        return SKIP, "a test failed without a verdict"
    return GOOD, f"pass: {', '.join(row['metric'] for row in rows)}"


def _decide_change(rows: list[dict[str, Any]], metric: str, output: str) -> tuple[int, str]:
    """The exit code for git, and the reason. Several tests may measure ``metric``: one that is worse is enough."""
    measured = [row for row in rows if row["metric"] == metric]
    worse = [row for row in measured if row["outcome"] in WORSE]
    undecided = [row for row in measured if row["outcome"] not in (*WORSE, *NOT_WORSE)]
    if measured:
        code = BAD if worse else SKIP if undecided else GOOD
        return code, "; ".join(map(_describe, worse or undecided or measured))
    not_compared = [row["reason"] for row in rows if row["outcome"] == "not compared"]
    if not_compared:
        return SKIP, not_compared[0]
    if rows:
        return SKIP, f"no test measured {metric} on both sides"
    return SKIP, f"nothing was compared: {_error_line(output)}"


def _describe(row: dict[str, Any]) -> str:
    """``step.tokens_per_second: slower: 0.88 [0.86, 0.91]``"""
    interval = "" if row["low"] is None else f": {row['measured']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{row['metric']}: {row['outcome']}{interval}{reason}"


def _measured(rows: list[dict[str, Any]]) -> list[str]:
    """The metrics that are known on both sides."""
    return sorted({row["metric"] for row in rows if row["outcome"] in (*WORSE, *NOT_WORSE, "inconclusive")})


def _line(row: dict[str, Any]) -> str:
    interval = "" if row.get("low") is None else f" [{row['low']:.4g}, {row['high']:.4g}]"
    reason = f": {row['reason']}" if row.get("reason") else ""
    return f"{row['metric']}: {row['verdict']}: {row['measured']:.4g}{interval}, threshold {row['threshold']}{reason}"


def _last_line(output: str) -> str:
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "no output")


def _error_line(output: str) -> str:
    """The line that says what went wrong: pytest's summary of an error, or the command's own."""
    starts = ("grpo: error: ", "ERROR: ", "ERROR ")
    errors = [line for line in output.splitlines() if line.startswith(starts)]
    if not errors:
        return _last_line(output)
    start = next(start for start in starts if errors[0].startswith(start))
    return errors[0].removeprefix(start)


def _run(job: dict[str, Any], command: list[str], environment: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit code, and the output with the errors last. Ctrl-C reaches the command, too; it is waited for, so that it
    can clean up."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    output, errors = (Path(job["log"]).with_suffix(suffix) for suffix in (".stdout", ".stderr"))
    with (
        output.open("wb") as stdout,
        errors.open("wb") as stderr,
        subprocess.Popen(
            command,
            cwd=job["folder"],
            env=own | job["environment"] | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        ) as process,
    ):
        try:
            exit_code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # leaving the block would not
            raise
    said = (file.read_text(encoding="utf-8", errors="replace") for file in (output, errors))
    return exit_code, "\n".join(said)


def _git(folder: str, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _append(path: Path, content: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def _leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report a crash as SKIP; Python's exit code 1 would mark the commit bad."""
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, trace)
    os._exit(130 if kind is KeyboardInterrupt else SKIP)


if __name__ == "__main__":
    sys.excepthook = _leave
    sys.exit(judge(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
