"""The report for GitHub Actions: a Markdown summary of the job, and annotations at tests that do not pass.

Of a comparison of two versions the summary has a table of its own, and only red rows are annotated.

The formats are those of "Workflow commands for GitHub Actions" in GitHub's documentation.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pytest_grpo.reports.table import (
    Absent,
    Entry,
    count_verdicts,
    describe_measured,
    describe_phase,
    has_many_systems,
    name_of_test,
)
from pytest_grpo.reports.versions.markdown import Compared, code, versions_markdown
from pytest_grpo.reports.versions.table import compared_versions, version_rows
from pytest_grpo.types import NOT_APPLICABLE, Row, Verdict

ICONS = {
    Verdict.PASS: "\N{WHITE HEAVY CHECK MARK}",
    Verdict.FAIL: "\N{CROSS MARK}",
    Verdict.INCONCLUSIVE: "\N{WARNING SIGN}",
}
COMMANDS = {Verdict.FAIL: "error", Verdict.INCONCLUSIVE: "warning"}


def append_summary(entries: Sequence[Entry], absences: Sequence[Absent] = ()) -> list[str]:
    """Append ``summary_markdown`` to the file ``$GITHUB_STEP_SUMMARY``, if it is set. Returns the problems."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return []
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(summary_markdown(entries, absences))
    except OSError as error:
        return [f"grpo: GITHUB_STEP_SUMMARY {path}: {error.strerror}; the summary was not written"]
    return []


def summary_markdown(entries: Sequence[Entry], absences: Sequence[Absent] = ()) -> str:
    """What a comparison of versions found, and the verdicts, each as a table followed by its reasons; then the tests
    that do not apply."""
    versions, gates = version_rows(entries), [(nodeid, row) for nodeid, row in entries if not row.outcome]
    if versions:  # gates that pass say nothing about the change
        gates = [(nodeid, row) for nodeid, row in gates if row.verdict != Verdict.PASS]
    parts = [
        _versions(versions) if versions else "",
        _verdicts(gates) if gates else "",
        _absences(absences) if absences else "",
    ]
    return "".join(parts)


def _absences(absences: Sequence[Absent]) -> str:
    lines = [
        f"- phase {absence.phase}: **{_text(name_of_test(nodeid))}**: {_text(absence.reason)}"
        for nodeid, absence in absences
    ]
    return "\n".join([f"{len(absences)} {NOT_APPLICABLE}:", "", *lines, "", ""])


def _versions(entries: Sequence[Entry]) -> str:
    devices = ", ".join(sorted({row.device for _, row in entries}))
    table = versions_markdown([Compared.of(nodeid, row) for nodeid, row in entries])
    return f"### grpo: {code(compared_versions([row for _, row in entries]))}\n\nOn {code(devices)}: {table}\n"


def _verdicts(entries: Sequence[Entry]) -> str:
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
    """An ``::error`` for each row that fails and a ``::warning`` for each inconclusive gate; none outside of Actions.

    ``locations`` holds, per node id, the test's file (relative to ``rootpath``) and its line, counted from zero.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return []
    workspace = Path(os.environ.get("GITHUB_WORKSPACE") or rootpath)
    lines = []
    for nodeid, row in entries:
        if row.verdict == Verdict.PASS or (row.outcome and row.verdict == Verdict.INCONCLUSIVE):
            continue
        file, line = locations[nodeid]
        properties = {
            "file": Path(os.path.relpath(rootpath / file, workspace)).as_posix(),
            "line": str((line or 0) + 1),
            "title": f"{row.metric}: {row.outcome or row.verdict}",
        }
        given = ",".join(f"{name}={_escaped(value, ',:')}" for name, value in properties.items())
        message = f"{_why(row)} ({nodeid})"
        lines.append(f"::{COMMANDS[Verdict(row.verdict)]} {given}::{_escaped(message)}")
    return lines


def _why(row: Row) -> str:
    """The reason; of a comparison of versions, the ratio before it."""
    if row.outcome and not math.isnan(row.measured):
        return ": ".join(filter(None, (describe_measured(row), row.reason)))
    return row.reason or describe_measured(row)


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
