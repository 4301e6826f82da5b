"""The report for GitHub Actions: a Markdown summary of the job, and annotations at tests that do not pass.

The formats are those of "Workflow commands for GitHub Actions" in GitHub's documentation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pytest_grpo.reports.table import Entry, count_verdicts, describe_measured, describe_phase, has_many_systems
from pytest_grpo.types import Row, Verdict

ICONS = {
    Verdict.PASS: "\N{WHITE HEAVY CHECK MARK}",
    Verdict.FAIL: "\N{CROSS MARK}",
    Verdict.INCONCLUSIVE: "\N{WARNING SIGN}",
}
COMMANDS = {Verdict.FAIL: "error", Verdict.INCONCLUSIVE: "warning"}


def append_summary(entries: Sequence[Entry]) -> list[str]:
    """Append ``summary_markdown`` to the file ``$GITHUB_STEP_SUMMARY``, if it is set. Returns the problems."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return []
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(summary_markdown(entries))
    except OSError as error:
        return [f"grpo: GITHUB_STEP_SUMMARY {path}: {error.strerror}; the summary was not written"]
    return []


def summary_markdown(entries: Sequence[Entry]) -> str:
    """The verdicts as a table, followed by the reasons of those that do not pass."""
    rows = [row for _, row in entries]
    columns = ["phase", "metric", "measured", "threshold", "verdict"]
    if has_many_systems(rows):
        columns.insert(2, "system")
    lines = [
        "### grpo verdicts",
        "",
        f"{count_verdicts(rows)} on {_text(', '.join(sorted({row.device for row in rows})))}",
        "",
    ]
    lines += [_line(columns), _line(["---"] * len(columns))]
    lines += [_line(_cells(row)[column] for column in columns) for row in rows]
    reasons = [
        f"- {_verdict(row)}: **{_text(row.metric)}** in {_text(nodeid)}: {_text(row.reason)}"
        for nodeid, row in entries
        if row.verdict != Verdict.PASS
    ]
    return "\n".join([*lines, "", *reasons, "", ""])


def annotation_lines(
    entries: Iterable[Entry], locations: Mapping[str, tuple[str, int | None]], rootpath: Path
) -> list[str]:
    """An ``::error`` for each row that fails and a ``::warning`` for each inconclusive one; none outside of Actions.

    ``locations`` holds, per node id, the test's file (relative to ``rootpath``) and its line, counted from zero.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return []
    workspace = Path(os.environ.get("GITHUB_WORKSPACE") or rootpath)
    lines = []
    for nodeid, row in entries:
        if row.verdict == Verdict.PASS:
            continue
        file, line = locations[nodeid]
        properties = {
            "file": Path(os.path.relpath(rootpath / file, workspace)).as_posix(),
            "line": str((line or 0) + 1),
            "title": f"{row.metric}: {row.verdict}",
        }
        given = ",".join(f"{name}={_escaped(value, ',:')}" for name, value in properties.items())
        message = f"{row.reason or describe_measured(row)} ({nodeid})"
        lines.append(f"::{COMMANDS[Verdict(row.verdict)]} {given}::{_escaped(message)}")
    return lines


def _cells(row: Row) -> dict[str, str]:
    return {
        "phase": describe_phase(row),
        "metric": _text(row.metric),
        "system": _text(row.system),
        "measured": _text(describe_measured(row)),
        "threshold": _text(row.threshold),
        "verdict": _verdict(row),
    }


def _verdict(row: Row) -> str:
    return f"{ICONS[Verdict(row.verdict)]} {row.verdict}"


def _text(text: str) -> str:
    """``text`` on one line, escaped for Markdown and its tables."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|~" else letter for letter in text)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str, further: str = "") -> str:
    for letter in f"%\r\n{further}":
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text
