from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.usefixtures("few_plugins")

APP = """
import contextlib
from modal.exception import ConnectionError
from pytest_grpo.remote.subprocess import collect_reports

class app:
    @staticmethod
    @contextlib.contextmanager
    def run():
        yield

class run_pytest:
    @staticmethod
    def remote(arguments):
        {body}
"""


def give_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.setenv(name, "not-a-real-token")


def run_modal(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, body: str) -> pytest.RunResult:
    """Run phase 2 through an app.py whose function runs ``body`` here: nothing is contacted."""
    give_credentials(monkeypatch)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    project.makepyfile(app=APP.format(body=body))
    return project.runpytest("--phase", "2", "--modal")


def test_missing_credentials_are_one_line(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_ID", "half-of-them")
    result = project.runpytest_subprocess("--phase", "2", "--modal")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: --modal: no Modal credentials; run 'modal token new' or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, "
        "or leave --modal out to measure here"
    ]


def test_the_app_runs_the_tests_and_its_reports_are_replayed(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_modal(project, monkeypatch, "return collect_reports(arguments)")
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(["grpo: device profile of modal, mode modal, *", "2 pass, 0 fail, *"])


def test_a_lost_connection_is_an_error_not_a_failure(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_modal(project, monkeypatch, "raise ConnectionError('gone')")
    result.assert_outcomes(errors=1, deselected=3)
    result.stdout.fnmatch_lines(["*test_two has no result from where it ran: Modal: gone"])


def test_a_project_without_an_app_is_one_line(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    give_credentials(monkeypatch)
    result = project.runpytest("--phase", "2", "--modal")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --modal: no app.py in *; it must define app and run_pytest"])
