"""What each report of a session says about two versions."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from tests.pytest_grpo.against.conftest import Versions

pytestmark = pytest.mark.slow

HOOK = """
def pytest_grpo_verdict(config, row):
    print(f"hook: {row.metric} {row.outcome} {sorted(row.arms or {})}")
"""


def test_every_report_says_what_was_found(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = versions.here
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(folder))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    (folder / "conftest.py").write_text(HOOK)
    versions.change(
        folder,
        "SECONDS, ANSWER, NUM_PASSES, PEAK_BYTES = 1.0, 7.0, 1, 100",
        "SECONDS, ANSWER, NUM_PASSES, PEAK_BYTES = 1.2, 7.0, 2, 100",
    )
    result = versions.run("-s", "--grpo-html=page.html", "--grpo-json=table.json", "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*hook: step.num_passes more *",
            "*hook: step.tokens_per_second slower *'here', 'other'*",
            "::error file=test_speed.py,*title=step.tokens_per_second%3A slower::0.8*",
        ]
    )
    assert result.stdout.str().count("::error ") == 1
    assert "::warning " not in result.stdout.str()

    summary = (folder / "summary.md").read_text()
    assert "### grpo: <code>here over other</code>" in summary
    assert "1 slower, 2 same, 1 more." in summary
    assert "threshold" not in summary

    page = (folder / "page.html").read_text()
    assert "<h1>here over other: 1 slower, 2 same, 1 more</h1>" in page

    rows = json.loads((folder / "table.json").read_text(), parse_constant=pytest.fail)["rows"]
    found = {row["metric"]: (row["outcome"], row["verdict"]) for row in rows}
    assert found == {
        "step.num_passes": ("more", "pass"),
        "step.tokens_per_second": ("slower", "fail"),
        "step.peak_bytes": ("same", "pass"),
        "plain.seconds": ("same", "pass"),
    }

    properties = ElementTree.parse(folder / "junit.xml").iter("property")
    told = {each.get("name"): json.loads(each.get("value", ""))["outcome"] for each in properties}
    assert told == {f"grpo.{metric}": outcome for metric, (outcome, _) in found.items()}
