"""The pytest plugin of a process that runs tests for another session.

It selects the requested tests, checks that both sessions collected the same tests from the same code, and writes each
event as a line of JSON.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import pytest

from pytest_grpo.remote.project_files import differing
from pytest_grpo.remote.protocol import Event, Request
from pytest_grpo.reports import pytest_benchmark
from pytest_grpo.session.findings import FINDINGS
from pytest_grpo.session.stored_results import STORED
from pytest_grpo.settings.config import is_xdist_worker
from pytest_grpo.settings.phases import phases_of

_OF_THE_OTHER_SESSION = ("xmlpath", *pytest_benchmark.SAVING_OPTIONS)
"""Options, possibly from the ini file, that write files; only the requesting session writes them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("grpo")
    group.addoption("--grpo-request-file", metavar="FILE", help="the request of another session")
    group.addoption("--grpo-report-file", metavar="FILE", help="write the events to this file, for replay")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    request, path = config.getoption("grpo_request_file"), config.getoption("grpo_report_file")
    if not (request and path) or is_xdist_worker(config):
        return
    for name in _OF_THE_OTHER_SESSION:
        setattr(config.option, name, None)
    asked = Request.from_json(Path(request).read_text(encoding="utf-8"))
    config.pluginmanager.register(ReportWriter(config, asked, Path(path)), "grpo-report-writer")


class ReportWriter:
    """Appends events to a file, one line each, flushed so that a killed process keeps what it wrote."""

    def __init__(self, config: pytest.Config, request: Request, path: Path) -> None:
        self._config = config
        self._request = request
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._errors: list[str] = []
        self._num_benchmarks = 0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._errors.append(f"{report.nodeid}: {report.longreprtext}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        there = {item.nodeid: item for item in items if min(phases_of(item), default=None) == self._request.phase}
        yield
        missing = [name for name in self._request.node_ids if name not in there]
        whole_files = {name.partition("::")[0] for name in self._request.collected}
        known = {*self._request.node_ids, *self._request.collected}
        extra = [name for name in there if name not in known and name.partition("::")[0] in whole_files]
        changed = differing(self._config.rootpath, self._request.code)
        self._write(
            {
                "event": "collected",
                "missing": missing,
                "extra": extra,
                "differing": changed,
                "errors": self._errors,
                "fingerprint": asdict(self._config.stash[STORED].fingerprint()),
                "machine_info": self._machine_info(),
            }
        )
        is_same = not (missing or extra or changed)
        items[:] = [there[name] for name in self._request.node_ids] if is_same else []

    def _machine_info(self) -> Event | None:
        return pytest_benchmark.machine_info(self._config) if self._request.wants_machine_info else None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._write({"event": "start", "nodeid": item.nodeid})
        result = yield
        if FINDINGS in self._config.stash:
            self._write({"event": "findings", **self._config.stash[FINDINGS].as_lists()})
        self._write({"event": "done", "nodeid": item.nodeid})  # warnings of a test arrive after its last report
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            entries = pytest_benchmark.entries(self._config)
            for entry in entries[self._num_benchmarks :]:
                self._write({"event": "benchmark", "nodeid": report.nodeid, "entry": entry})
            self._num_benchmarks = len(entries)
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

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self._write({"event": "finish"})

    def pytest_unconfigure(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        # A test may record properties that are not JSON; JUnit files show their text anyway.
        self._file.write(json.dumps(event, default=str) + "\n")
        self._file.flush()
