from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_grpo.reports.github import annotation_lines, append_summary, summary_markdown
from pytest_grpo.types import Row
from tests.pytest_grpo.reports.conftest import a_change, an_exact_change

MakeRow = Callable[..., Row]


def test_summary_is_a_table_and_the_reasons(measured: MakeRow, counted: MakeRow) -> None:
    text = summary_markdown([("a.py::test_a", measured("speed")), ("a.py::test_b[x]", counted("calls", phase=None))])
    assert text.splitlines() == [
        "### grpo verdicts",
        "",
        "1 pass, 1 fail, 0 inconclusive on cpu, 2 cores",
        "",
        "| phase | metric | measured | threshold | verdict |",
        "| --- | --- | --- | --- | --- |",
        "| 2 | speed | 2.5 x \\[2.25, 2.75\\] | >= 2 x | \u2705 pass |",
        "| - | calls | 4 | == 0 | \u274c fail |",
        "",
        "- \u274c fail: **calls** in a.py::test\\_b\\[x\\]: counts are exact: 4 is not 0",
        "",
    ]


def test_summary_escapes_what_would_be_markup(counted: MakeRow) -> None:
    text = summary_markdown([("a.py::test_a", counted("<b>|*x*", reason="`a`\n# b"))])
    assert "| 3 | &lt;b>\\|\\*x\\* | 4 |" in text
    assert text.splitlines()[-2].endswith(": \\`a\\` # b")


def test_summary_is_appended(measured: MakeRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    entries = [("a.py::test_a\udcff", measured("speed", verdict="fail", reason="slow"))]
    assert append_summary(entries) == []
    lines = summary.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["before", "### grpo verdicts"]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    (problem,) = append_summary(entries)
    assert problem == f"grpo: GITHUB_STEP_SUMMARY {tmp_path}: Is a directory; the summary was not written"


def test_annotations_name_the_place_and_escape(
    measured: MakeRow, counted: MakeRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    entries = [
        ("t/a,b.py::test_a", measured("speed")),
        ("t/a,b.py::test_a", counted("calls", reason="100 %\nof: them")),
        ("t/c.py::test_c", measured("odd:name", verdict="inconclusive", reason="noisy")),
    ]
    places = {"t/a,b.py::test_a": ("t/a,b.py", 6), "t/c.py::test_c": ("t/c.py", None)}
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert annotation_lines(entries, places, tmp_path / "project") == [
        "::error file=project/t/a%2Cb.py,line=7,title=calls%3A fail::100 %25%0Aof: them (t/a,b.py::test_a)",
        "::warning file=project/t/c.py,line=1,title=odd%3Aname%3A inconclusive::noisy (t/c.py::test_c)",
    ]
    monkeypatch.setenv("GITHUB_ACTIONS", "false")
    assert annotation_lines(entries, places, tmp_path) == []


def test_a_comparison_of_versions_has_a_table_of_its_own_and_its_gates_that_pass_are_left_out(
    measured: MakeRow, counted: MakeRow
) -> None:
    text = summary_markdown(
        [
            ("a.py::test_a", a_change("step.seconds", outcome="same", verdict="pass", measured=1.0)),
            ("a.py::test_a", a_change("step.tokens_per_second")),
            ("a.py::test_a", measured("speed")),
            ("a.py::test_b", counted("calls")),
        ]
    )
    versions, _, gates = text.partition("### grpo verdicts")
    assert versions.startswith(
        "### grpo: <code>here over main</code>\n\nOn <code>cpu, 2 cores</code>: 1 slower, 1 same."
    )
    assert "tokens_per_second</code> | 0.8 | 0.75 to 0.85 | \u274c slower |" in versions
    assert "threshold" not in versions
    assert "calls" in gates
    assert "speed" not in gates


def test_only_red_rows_of_a_comparison_are_annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    entries = [
        ("a.py::test_a", a_change("step.seconds", verdict="inconclusive", outcome="inconclusive")),
        ("a.py::test_a", an_exact_change("step.num_passes")),
        ("a.py::test_a", a_change("step.tokens_per_second", reason="expected >= 1.1: not proven")),
        ("a.py::test_a", an_exact_change("step.answers", verdict="fail", measured=float("nan"), reason="differ")),
    ]
    assert annotation_lines(entries, {"a.py::test_a": ("a.py", 6)}, tmp_path) == [
        "::error file=a.py,line=7,title=step.tokens_per_second%3A slower"
        "::0.8 [0.75, 0.85]: expected >= 1.1: not proven (a.py::test_a)",
        "::error file=a.py,line=7,title=step.answers%3A more::differ (a.py::test_a)",
    ]
