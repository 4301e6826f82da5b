"""Collects the verdicts of a session and hands them to every report at its end.

A gate writes each row as a JSON text into the test's ``user_properties``. It reaches the reporting process with the
test's report, from an xdist worker or another machine alike, and JUnit files show it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_grpo.reports import github
from pytest_grpo.reports.table import (
    Entry,
    absence_lines,
    count_verdicts,
    plain,
    reason_lines,
    table_lines,
    versus_lines,
)
from pytest_grpo.reports.usage_errors import USAGE_ERROR
from pytest_grpo.reports.versions.table import COLORS as OUTCOME_COLORS
from pytest_grpo.reports.versions.table import compared_versions, count_outcomes, version_lines, version_rows
from pytest_grpo.session.inconclusive import too_many_inconclusive
from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.types import (
    NOT_APPLICABLE_PROPERTY,
    PROPERTY_PREFIX,
    Absence,
    Outcome,
    Row,
    Verdict,
    without_verdicts,
)

if TYPE_CHECKING:
    from pytest_grpo.session.stored_results import StoredResults

_OUTCOMES = ("passed", "failed", "skipped")
"""pytest's own. pytest-rerunfailures gives another one to a failed attempt that it repeats."""
COLORS = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}


class VerdictReport:
    """Collects the rows of a session from its reports and shows them at the end. Not for xdist workers.

    ``stored`` has this machine's fingerprint and earlier results.
    """

    def __init__(self, config: pytest.Config, stored: StoredResults) -> None:
        self._config = config
        self._stored = stored
        self._too_many_inconclusive = ""
        self._num_usage_errors = 0
        self._num_failures = 0
        self._repeated: set[str] = set()
        """The tests whose current attempt failed and will be repeated."""
        self._rows: dict[str, list[Row]] = {}
        self._absences: dict[str, Absence] = {}
        self._locations: dict[str, tuple[str, int | None]] = {}
        self._said: list[str] = []
        self._problems: list[str] = []

    @property
    def rows(self) -> list[tuple[str, Row]]:
        """(node id, row), by phase and then as measured; those without a phase come last."""
        listed = [(nodeid, row) for nodeid, rows in self._rows.items() for row in rows]
        return sorted(listed, key=lambda entry: (entry[1].phase is None, entry[1].phase or 0))

    @property
    def absences(self) -> list[tuple[str, Absence]]:
        """(node id, why there is no row), by phase."""
        return sorted(self._absences.items(), key=lambda entry: entry[1].phase)

    @pytest.hookimpl(tryfirst=True)  # before a JUnit file is written from it
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome not in _OUTCOMES:
            self._repeated.add(report.nodeid)
        elif report.when == "setup":
            self._repeated.discard(report.nodeid)  # a new attempt
        if report.failed:
            is_usage_error = any(name == USAGE_ERROR for name, _ in report.user_properties)
            self._num_usage_errors += is_usage_error
            self._num_failures += not is_usage_error
        if report.when != "teardown":
            return
        if report.nodeid in self._repeated:
            report.user_properties[:] = without_verdicts(report.user_properties)
            return
        rows = self._rows[report.nodeid] = self._read_rows(report)
        self._locations[report.nodeid] = report.location[:2]
        for row in rows:
            self._config.hook.pytest_grpo_verdict(config=self._config, row=row)

    def _read_rows(self, report: pytest.TestReport) -> list[Row]:
        rows = []
        for name, text in report.user_properties:
            if name != NOT_APPLICABLE_PROPERTY and not name.startswith(PROPERTY_PREFIX):
                continue
            try:
                if name == NOT_APPLICABLE_PROPERTY:
                    self._absences[report.nodeid] = Absence.from_property(str(text))
                else:
                    rows.append(Row.from_property(str(text)))
            except (TypeError, ValueError):  # a test may record any property under any name
                self._problems.append(
                    f"grpo: property {plain(name)!r} of {plain(report.nodeid)} is not a verdict; ignored"
                )
        return rows

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        # pytest-benchmark saves in its own wrapper of this hook, so the entries must be there before it.
        alone = [(nodeid, row) for nodeid, row in self.rows if not row.outcome]
        if alone:
            from pytest_grpo.reports.pytest_benchmark import store

            store(self._config, alone, self._stored.machine())
        if session.exitstatus == pytest.ExitCode.TESTS_FAILED and self._num_usage_errors and not self._is_red():
            session.exitstatus = pytest.ExitCode.USAGE_ERROR  # not a failure of the code under test
        if self._config.stash[PLUGIN_CONFIG].inconclusive == "majority":
            self._too_many_inconclusive = too_many_inconclusive([row for _, row in self.rows])
        if session.exitstatus == pytest.ExitCode.OK and self._too_many_inconclusive:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if session.exitstatus not in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR):
            self._said += self._stored.save(self.rows, is_complete=self._num_usage_errors == 0)
        return (yield)

    def write_files(self) -> None:
        """Write the page and the job's summary, with a terminal or without one."""
        if self.rows or self._absences:
            self._problems += github.append_summary(self.rows, self.absences)
        settings = self._config.stash[PLUGIN_CONFIG]
        if self._config.getoption("collectonly"):
            return
        if settings.html_path is not None:
            self._write("--grpo-html", settings.html_path, self._write_html)
        if settings.json_path is not None:
            self._write("--grpo-json", settings.json_path, self._write_json)

    def _is_red(self) -> bool:
        return self._num_failures > 0 or any(row.verdict == Verdict.FAIL for _, row in self.rows)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        from pytest_grpo.reports.pytest_benchmark import describe

        output_json["grpo_verdicts"] = [
            {"test": nodeid, "metric": row.metric, **describe(row)} for nodeid, row in self.rows
        ]

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        entries = self.rows
        versions = version_rows(entries)
        verdicts = [row for _, row in entries if not row.outcome]
        if versions:
            self._write_versions(terminalreporter, versions)
            verdicts = [row for row in verdicts if row.verdict != Verdict.PASS]
        if verdicts or self._absences:
            self._write_table(terminalreporter, verdicts)
        if entries:
            for line in self._stored.comparison(entries):
                terminalreporter.write_line(line)
            for line in github.annotation_lines(entries, self._locations, self._config.rootpath):
                terminalreporter.write_line(line)
        for line in self._said:
            terminalreporter.write_line(line)
        if self._too_many_inconclusive:
            terminalreporter.write_line(self._too_many_inconclusive, red=True)
        for problem in self._problems:
            terminalreporter.write_line(problem, yellow=True)

    def _write_table(self, terminal: pytest.TerminalReporter, rows: Sequence[Row]) -> None:
        terminal.section("grpo verdicts")
        if rows:
            header, *lines = table_lines(rows, self._config.get_terminal_writer().fullwidth)
            terminal.write_line(header, bold=True)
            for row, line in zip(rows, lines, strict=True):
                before = line.removesuffix(row.verdict)
                terminal.write(before)
                terminal.write_line(line[len(before) :], **{COLORS[Verdict(row.verdict)]: True})
        for line in [*reason_lines(rows), *versus_lines(rows), *absence_lines(self.absences)]:
            terminal.write_line(line)
        devices = ", ".join(sorted({plain(row.device) for row in rows}))
        counts = count_verdicts(rows, len(self._absences))
        terminal.write_line(f"{counts} on {devices}" if rows else counts)

    def _write_versions(self, terminal: pytest.TerminalReporter, entries: Sequence[Entry]) -> None:
        """The rows that compare two versions; exact gates that pass on both sides are left out."""
        terminal.section(f"grpo: {plain(compared_versions([row for _, row in entries]))}")
        for line, outcome in version_lines(entries):
            before = line.removesuffix(outcome)
            terminal.write(before)
            color = OUTCOME_COLORS.get(Outcome(outcome)) if outcome else None
            terminal.write_line(line[len(before) :], **({color: True} if color else {}))
        devices = ", ".join(sorted({plain(row.device) for _, row in entries}))
        terminal.write_line(f"{count_outcomes(entries)} on {devices}")

    def _write(self, option: str, path: Path, write: Callable[[Path], None]) -> None:
        try:
            write(path)
        except OSError as error:
            self._problems.append(f"grpo: {option} {path}: {error}; the report was not written")
        else:
            self._said.append(f"grpo: report written to {path}")

    def _write_html(self, path: Path) -> None:
        from pytest_grpo.reports.page import write_html

        write_html(path, self.rows, self._stored.machine(), self._stored.history(), self.absences)

    def _write_json(self, path: Path) -> None:
        from pytest_grpo.reports.report_file import write_report

        rows = [{"test": nodeid, **asdict(row)} for nodeid, row in self.rows]
        for row in rows:
            for name in ("measured", "low", "high"):  # JSON has no NaN, and nothing without end
                row[name] = row[name] if row[name] is not None and math.isfinite(row[name]) else None
        absences = [{"test": nodeid, **asdict(absence)} for nodeid, absence in self.absences]
        values = {"machine": self._stored.machine(), "rows": rows, "not_applicable": absences}
        text = json.dumps(values, indent=1)
        write_report(path, text.encode())


VERDICT_REPORT = pytest.StashKey[VerdictReport]()


def header_line(config: pytest.Config) -> str | None:
    """Where phases run and which thresholds apply; None when no phase was selected."""
    settings = config.stash[PLUGIN_CONFIG]
    if not (settings.asked_phases and settings.claims_markers):
        return None
    profile = settings.device_profile or (f"of {settings.remote}" if settings.remote else settings.profile)
    parts = [f"device profile {profile}", f"mode {settings.remote or 'local'}"]
    path = settings.thresholds_path
    if path.exists() or settings.thresholds_required:  # else the tests bring their own
        shown = path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path
        parts.append(f"thresholds {shown.as_posix()}")
    if not settings.run.is_embedded:
        parts.append(f"run {settings.run}")
    return f"grpo: {', '.join(parts)}"
