from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pytest_grpo.report import Row, table_lines

ROWS = (
    Row("batched_speedup", 2, 2.41, ">= 2", "", "pass", "cpu", 2.3, 2.55, 0.9375, 5, {"fast": [[300, 0.1]]}),
    Row("tokenizer_calls", 3, 1.0, "== 0", "", "fail", "cpu"),
)
OUTPUT = [
    "*= grpo verdicts =*",
    "phase  metric                 measured           threshold  verdict",
    "2      batched_speedup        3 x [[]3, 3]         >= 2 x     pass",
    "2      adapter_cache_hits     1                  == 1       pass",
    "3      forward_over_backward  1 [[]0.9, 1.25]      0.67..1.5  pass",
    "4      overlap_cost           3 [[]3, 3]           <= 1.5     fail",
    "3 pass, 1 fail, 0 inconclusive on cpu *",
]
OUTPUT = [" ".join(line.split()) for line in OUTPUT]


def squeezed(result: pytest.RunResult) -> pytest.LineMatcher:
    """The output with runs of spaces as one, so that column widths do not matter."""
    return pytest.LineMatcher([" ".join(line.split()) for line in result.outlines])


@pytest.mark.parametrize("row", ROWS)
def test_rows_survive_the_way_through_a_report(row: Row) -> None:
    name, text = row.as_property()
    assert name == f"grpo.{row.metric}"
    assert Row.from_property(text) == row


def test_table_drops_intervals_on_a_narrow_terminal() -> None:
    assert table_lines(ROWS, 80) == [
        "phase  metric           measured          threshold  verdict",
        "2      batched_speedup  2.41 [2.3, 2.55]  >= 2       pass",
        "3      tokenizer_calls  1                 == 0       fail",
    ]
    assert table_lines(ROWS, 55) == [
        "phase  metric           measured  threshold  verdict",
        "2      batched_speedup  2.41      >= 2       pass",
        "3      tokenizer_calls  1         == 0       fail",
    ]


@pytest.mark.parametrize("arguments", [[], ["-p", "no:benchmark"], ["--benchmark-disable"], ["-q"]])
def test_table_ends_the_session(project: pytest.Pytester, arguments: list[str]) -> None:
    result = project.runpytest("--phase", "all", "--grpo-pairs", "2", "--color=no", *arguments)
    result.assert_outcomes(passed=2, failed=1, deselected=1)
    squeezed(result).fnmatch_lines(OUTPUT)


def test_no_table_without_verdicts(project: pytest.Pytester) -> None:
    project.runpytest().stdout.no_fnmatch_line("*grpo verdicts*")


def test_colour_follows_the_verdict(project: pytest.Pytester) -> None:
    output = project.runpytest("--phase", "3,4", "--grpo-pairs", "2", "--color=yes").stdout.str()
    assert "\x1b[32m3      forward_over_backward" in output
    assert "\x1b[31m4      overlap_cost" in output


def test_junit_carries_the_verdict(project: pytest.Pytester) -> None:
    project.runpytest("--phase", "2", "--grpo-pairs", "2", "--junitxml=junit.xml")
    tree = ElementTree.parse(project.path / "junit.xml")
    properties = {entry.get("name"): json.loads(entry.get("value") or "") for entry in tree.iter("property")}
    assert {name: entry["verdict"] for name, entry in properties.items()} == {
        "grpo.batched_speedup": "pass",
        "grpo.adapter_cache_hits": "pass",
    }
    assert properties["grpo.batched_speedup"]["num_pairs"] == 2


def test_step_summary_gains_a_markdown_table(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.runpytest("--phase", "3")
    lines = summary.read_text().splitlines()
    assert lines[0] == "before"
    assert "| 3 | forward_over_backward | 1 [0.9, 1.25] | 0.67..1.5 | pass |" in lines
    assert "1 pass, 0 fail, 0 inconclusive" in lines


def test_an_unwritable_step_summary_is_one_line(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "missing" / "summary.md"))
    result = project.runpytest("--phase", "3")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["grpo: GITHUB_STEP_SUMMARY *: No such file or directory; *not written"])


HOOK = """
def pytest_grpo_verdict(config, row):
    with open("seen.txt", "a") as file:
        file.write(f"{row.metric} {row.verdict}\\n")
"""
SEEN = ["adapter_cache_hits pass", "batched_speedup pass", "forward_over_backward pass", "overlap_cost fail"]


def test_hook_sees_each_verdict_once(project: pytest.Pytester) -> None:
    project.makeconftest(HOOK)
    project.runpytest("--phase", "all", "--grpo-pairs", "2")
    assert sorted(project.path.joinpath("seen.txt").read_text().splitlines()) == SEEN


@pytest.mark.usefixtures("few_plugins")
def test_rows_of_xdist_workers_reach_the_controller_once(project: pytest.Pytester) -> None:
    project.makeconftest(HOOK)
    result = project.runpytest(
        "--phase", "all", "--grpo-pairs", "2", "-n2", "-W", "ignore", "--benchmark-json=out.json"
    )
    result.assert_outcomes(passed=2, failed=1)
    squeezed(result).fnmatch_lines(OUTPUT)
    assert sorted(project.path.joinpath("seen.txt").read_text().splitlines()) == SEEN
    assert not project.path.joinpath("out.json").exists()  # pytest-benchmark disables itself under xdist


def test_a_test_that_runs_twice_counts_once(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for _ in range(2):
                item.user_properties.clear()
                runtestprotocol(item, nextitem=nextitem)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
        """
    )
    project.runpytest("--phase", "3").stdout.fnmatch_lines(["1 pass, 0 fail, 0 inconclusive on *"])
