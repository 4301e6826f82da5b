"""Tests that do not apply: a line for each, in every report."""

from __future__ import annotations

import json

import pytest

SUITE = """
import pytest
from pytest_grpo import not_applicable
from pytest_grpo.agreement import nothing_to_check

@pytest.fixture
def nothing():
    not_applicable("the fixture finds nothing")

@pytest.mark.phase2
def test_in_the_body(grpo_gate):
    not_applicable("the run has no variant")

@pytest.mark.phase3
def test_in_a_fixture(grpo_gate, nothing): pass

@pytest.mark.phase2
def test_measured(grpo_gate):
    grpo_gate.check("adapter_cache_hits", 1)

def test_without_a_phase():
    not_applicable("this is no gate")
"""


@pytest.fixture
def suite(project: pytest.Pytester) -> pytest.Pytester:
    (project.path / "test_suite.py").unlink()
    project.makepyfile(test_own=SUITE)
    return project


def test_each_has_a_line_in_the_table(suite: pytest.Pytester) -> None:
    result = suite.runpytest("-m", "phase2 or phase3", "-k", "not without")
    result.assert_outcomes(passed=1, skipped=2, deselected=1)
    result.stdout.fnmatch_lines(
        [
            "not applicable: phase 2 in_the_body: the run has no variant",
            "not applicable: phase 3 in_a_fixture: the fixture finds nothing",
            "1 pass, 0 fail, 0 inconclusive, 2 not applicable on cpu *",
        ]
    )


def test_a_session_with_nothing_else_says_so(suite: pytest.Pytester) -> None:
    result = suite.runpytest("--phase=3")
    result.stdout.fnmatch_lines(["*in_a_fixture: the fixture finds nothing", "0 pass, *, 1 not applicable"])


def test_a_test_without_a_phase_is_skipped_only(suite: pytest.Pytester) -> None:
    result = suite.runpytest("-k", "without")
    result.assert_outcomes(skipped=1, deselected=3)
    result.stdout.no_fnmatch_line("*not applicable*")


def test_the_files_have_them(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = suite.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    suite.runpytest("--phase=2,3", "--grpo-json=rows.json", "--grpo-html=page.html")
    expected = {"test": "test_own.py::test_in_the_body", "phase": 2, "reason": "the run has no variant"}
    assert expected in json.loads((suite.path / "rows.json").read_text())["not_applicable"]
    assert "the run has no variant" in (suite.path / "page.html").read_text()
    assert "- phase 3: **in\\_a\\_fixture**: the fixture finds nothing" in summary.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["-n1"], ["--grpo-remote=subprocess"]])
def test_they_travel_from_other_processes(suite: pytest.Pytester, arguments: list[str]) -> None:
    result = suite.runpytest_subprocess("--phase=2,3", *arguments)
    result.stdout.fnmatch_lines(["not applicable: phase 3 in_a_fixture: the fixture finds nothing"])
