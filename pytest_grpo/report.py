"""Verdicts as rows: how they travel from the test to the report, and how they are shown.

A gate writes each row as a JSON text into the test's ``user_properties``. It reaches the reporting process with the
test's report, from an xdist worker or another machine alike, and JUnit files show it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import pytest

from pytest_grpo.config import PLUGIN_CONFIG

PROPERTY_PREFIX = "grpo."
COLUMNS = ("phase", "metric", "measured", "threshold", "verdict")
_COLORS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


@dataclass(frozen=True, slots=True)
class Row:
    """One verdict. Only builtin types, so that it survives JSON unchanged.

    ``low`` to ``high`` covers the true median with probability ``confidence``; all three and ``num_pairs`` are None
    for a plain number. ``arms`` holds the samples of a measured comparison: per arm its [quantity, seconds] pairs.
    """

    metric: str
    phase: int
    measured: float
    threshold: str
    unit: str
    verdict: str
    device: str
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    num_pairs: int | None = None
    arms: dict[str, list[list[float]]] | None = None

    def as_property(self) -> tuple[str, str]:
        return f"{PROPERTY_PREFIX}{self.metric}", json.dumps(asdict(self))

    @classmethod
    def from_property(cls, text: str) -> Row:
        return cls(**json.loads(text))


class VerdictReport:
    """Collects the rows of a session from its reports and shows them at the end. Not for xdist workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows: dict[str, list[Row]] = {}

    @property
    def rows(self) -> list[tuple[str, Row]]:
        """(node id, row), by phase and then as measured."""
        listed = [(nodeid, row) for nodeid, rows in self._rows.items() for row in rows]
        return sorted(listed, key=lambda entry: entry[1].phase)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":
            return
        rows = [
            Row.from_property(str(text)) for name, text in report.user_properties if name.startswith(PROPERTY_PREFIX)
        ]
        if rows:
            self._rows[report.nodeid] = rows  # a test that ran again replaces what it said before
        for row in rows:
            self._config.hook.pytest_grpo_verdict(config=self._config, row=row)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self):
        # pytest-benchmark saves in its own wrapper of this hook, so the entries must be there before it.
        if self._rows:
            from pytest_grpo.benchmark_table import store

            store(self._config, self.rows)
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._rows:
            return
        rows = [row for _, row in self.rows]
        terminalreporter.section("grpo verdicts")
        width = terminalreporter.config.get_terminal_writer().fullwidth
        header, *lines = table_lines(rows, width)
        terminalreporter.write_line(header, bold=True)
        for row, line in zip(rows, lines, strict=True):
            terminalreporter.write_line(line, **{_COLORS[row.verdict]: True})
        terminalreporter.write_line(f"{count_verdicts(rows)} on {', '.join(sorted({row.device for row in rows}))}")
        problem = append_step_summary(rows)
        if problem:
            terminalreporter.write_line(problem, yellow=True)


VERDICT_REPORT = pytest.StashKey[VerdictReport]()


def header_line(config: pytest.Config) -> str | None:
    """Where phases run and what they are held against; None when none were asked for."""
    settings = config.stash[PLUGIN_CONFIG]
    if not settings.asked_phases:
        return None
    profile = settings.device_profile or (f"of {settings.remote}" if settings.remote else settings.profile)
    path = settings.thresholds_path
    shown = path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path
    return f"grpo: device profile {profile}, mode {settings.remote or 'local'}, thresholds {shown.as_posix()}"


def table_lines(rows: Sequence[Row], width: int) -> list[str]:
    """A header and one line per row, in ASCII, within ``width`` columns as far as metric names allow."""
    for with_interval in (True, False):
        cells = [COLUMNS, *(_cells(row, with_interval=with_interval) for row in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
        if sum(widths) + 2 * (len(widths) - 1) <= width:
            break
    return ["  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip() for line in cells]


def count_verdicts(rows: Iterable[Row]) -> str:
    verdicts = [row.verdict for row in rows]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in _COLORS)


def append_step_summary(rows: Sequence[Row]) -> str | None:
    """Append the table as Markdown to the file that GitHub Actions shows. Returns what went wrong, if anything."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return None
    lines = [_markdown(COLUMNS), _markdown(["---"] * len(COLUMNS))]
    lines += [_markdown(_cells(row, with_interval=True)) for row in rows]
    text = "\n".join(["### grpo verdicts", "", *lines, "", f"{count_verdicts(rows)}", ""])
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        return f"grpo: GITHUB_STEP_SUMMARY {path}: {error.strerror}; the summary was not written"
    return None


def describe_measured(row: Row, *, with_interval: bool = True) -> str:
    from pytest_grpo.thresholds import format_number

    text = f"{format_number(row.measured)} {row.unit}".rstrip()
    if with_interval and row.low is not None and row.high is not None:
        text += f" [{format_number(row.low)}, {format_number(row.high)}]"
    return text


def _cells(row: Row, *, with_interval: bool) -> tuple[str, ...]:
    measured = describe_measured(row, with_interval=with_interval)
    return (str(row.phase), row.metric, measured, row.threshold, row.verdict)


def _markdown(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
