"""The end of a session that compares two versions: what only one of them has, and what was to be proven."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_grpo.against.expecting import Expected
from pytest_grpo.session.findings import Findings


class FindingsReport:
    """Tells the findings of this session and its workers, and fails where nothing measured an expected change."""

    def __init__(self, findings: Findings, expected: Mapping[str, Expected], other_name: str) -> None:
        self._findings = findings
        self._expected = expected
        self._other_name = other_name

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        seen = self._findings.seen
        unmeasured = [each for metric, each in self._expected.items() if metric not in seen]
        has_ended = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if unmeasured and has_ended and session.items:
            each = unmeasured[0]
            problem = (
                f"grpo: --grpo-expect {each.metric}{each.text.replace(' ', '')}: no test measured it on both sides; "
                f"measured are {', '.join(sorted(seen)) or 'none'}"
            )
            self._findings.add(problems=[problem])
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid in self._findings.gone:
            terminalreporter.write_line(f"grpo: gone here: {nodeid} is in {self._other_name} only")
        for problem in self._findings.problems:
            terminalreporter.write_line(problem, yellow=True)
