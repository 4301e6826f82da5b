"""A pytest plugin for the process that runs tests for another one: writes each report and warning as a line of JSON."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TextIO

import pytest

from pytest_grpo.config import is_xdist_worker
from pytest_grpo.remote.protocol import Event


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("grpo").addoption("--grpo-report-file", metavar="FILE", help="write reports there, for replaying")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("grpo_report_file")
    if path and not is_xdist_worker(config):
        config.pluginmanager.register(ReportWriter(config, Path(path)), "grpo-report-writer")


class ReportWriter:
    """Appends events to a file, one line each, flushed so that a lost process leaves what it had."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._file: TextIO = path.open("w", encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._write({"event": "report", "data": data})

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        self._write(
            {
                "event": "warning",
                "message": str(warning_message.message),
                "category": warning_message.category.__name__,
                "filename": warning_message.filename,
                "lineno": warning_message.lineno,
                "when": when,
                "nodeid": nodeid,
                "location": location,
            }
        )

    def pytest_unconfigure(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        # A test may record properties that JSON does not know; their text is what JUnit would show anyway.
        self._file.write(json.dumps(event, default=str) + "\n")
        self._file.flush()
