from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_grpo.types import Row

SPEED = Row(
    *("speed", 2, "at_least", 2.0, None, ">= 2 x", "bench/thresholds.toml", "x", "pass", "", 2.5, "cpu, 2 cores"),
    **{"low": 2.25, "high": 2.75, "confidence": 0.99, "num_pairs": 2, "ratios": [2.25, 2.75]},
)
CALLS = Row(*("calls", 3, "equals", 0, 0, "== 0", "a file", "", "fail", "4 is not 0", 4, "cpu, 2 cores"))
OVERLAP = Row(
    *("overlap", None, "at_most", None, 2, "<= 2", "a file", "", "inconclusive", "too noisy", 2, "cpu, 2 cores")
)
TABLE = [
    "*= grpo verdicts =*",
    "phase  metric   measured            threshold  verdict",
    "2      speed    2.5 x [[]2.25, 2.75]  >= 2 x     pass",
    "3      calls    4                   == 0       fail",
    "-      overlap  2                   <= 2       inconclusive",
    "fail: calls: 4 is not 0",
    "inconclusive: overlap: too noisy",
    "1 pass, 1 fail, 1 inconclusive on cpu, 2 cores",
]
SUITE = """
import json

import pytest

ROWS = json.loads({rows!r})

def test_plain():
    pass

@pytest.mark.parametrize("name", list(ROWS))
def test_gate(request, name):
    request.node.user_properties += [tuple(row) for row in ROWS[name]]
    assert name != "red"
"""
HOOK = """
def pytest_grpo_verdict(config, row):
    with open("seen.txt", "a") as file:
        file.write(f"{row.metric} {row.verdict}\\n")
"""
SEEN = ["calls fail", "overlap inconclusive", "speed pass"]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A plain test, a red one with two rows, and a green one with one row of an earlier phase."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    rows = {"red": [OVERLAP.as_property(), CALLS.as_property()], "green": [SPEED.as_property()]}
    pytester.makepyfile(test_suite=SUITE.format(rows=json.dumps(rows)))
    pytester.makeini("[pytest]\n")
    return pytester


@pytest.mark.parametrize("arguments", [[], ["-p", "no:benchmark"], ["--benchmark-disable"], ["-q"]])
def test_table_ends_the_session(suite: pytest.Pytester, arguments: list[str]) -> None:
    result = suite.runpytest("--color=no", *arguments)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(TABLE, consecutive=True)


def test_no_table_without_verdicts(suite: pytest.Pytester) -> None:
    suite.runpytest("-k", "plain").stdout.no_fnmatch_line("*grpo verdicts*")


def test_table_fits_a_narrow_terminal(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "42")
    result = suite.runpytest("--color=no")
    result.stdout.fnmatch_lines(["phase  metric   measured  verdict", "2      speed    2.5 x     pass"])


def test_colour_is_of_the_verdict_and_can_be_off(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = suite.runpytest("--color=yes").stdout.str()
    assert "\x1b[32mpass\x1b[0m\n" in coloured
    assert "\x1b[31mfail\x1b[0m\n" in coloured
    assert "\x1b[33minconclusive\x1b[0m\n" in coloured
    assert "\x1b" not in suite.runpytest("--color=no").stdout.str()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in suite.runpytest().stdout.str()


def test_junit_carries_each_verdict(suite: pytest.Pytester) -> None:
    suite.runpytest("--junitxml=junit.xml")
    cases = ElementTree.parse(suite.path / "junit.xml").iter("testcase")
    properties = {
        case.get("name"): {entry.get("name"): entry.get("value") or "" for entry in case.iter("property")}
        for case in cases
    }
    assert {name: list(entries) for name, entries in properties.items()} == {
        "test_plain": [],
        "test_gate[red]": ["grpo.overlap", "grpo.calls"],
        "test_gate[green]": ["grpo.speed"],
    }
    assert Row.from_property(properties["test_gate[green]"]["grpo.speed"]) == SPEED


def test_github_gets_a_summary_and_annotations(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.path.parent))
    result = suite.runpytest()
    where = f"file={suite.path.name}/test_suite.py,line=10"
    result.stdout.fnmatch_lines(
        [
            f"::error {where},title=calls%3A fail::4 is not 0 (test_suite.py::test_gate[[]red[]])",
            f"::warning {where},title=overlap%3A inconclusive::too noisy (test_suite.py::test_gate[[]red[]])",
        ]
    )
    assert "| 2 | speed | 2.5 x " in summary.read_text(encoding="utf-8")


def test_an_unwritable_summary_is_one_line(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "missing" / "summary.md"))
    result = suite.runpytest("-k", "green", "--color=yes")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["?[[]33mgrpo: GITHUB_STEP_SUMMARY *: No such file or directory; *not written*"])


def test_html_is_written_even_without_verdicts(suite: pytest.Pytester) -> None:
    suite.runpytest("--grpo-html=out/report.html").stdout.fnmatch_lines(["grpo: report written to *report.html"])
    report = suite.path / "out" / "report.html"
    assert "<h1>1 of 3 gates fails</h1>" in report.read_text(encoding="utf-8")
    suite.runpytest("--grpo-html=out/report.html", "--collect-only")
    assert "<h1>1 of 3 gates fails</h1>" in report.read_text(encoding="utf-8")
    suite.runpytest("--grpo-html=out/report.html", "-k", "plain")
    assert "<h1>No gate gave a verdict</h1>" in report.read_text(encoding="utf-8")


def test_files_are_written_without_a_terminal(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    suite.runpytest("-p", "no:terminal", "--grpo-html=report.html")
    assert "<h1>1 of 3 gates fails</h1>" in (suite.path / "report.html").read_text(encoding="utf-8")
    assert "| 2 | speed | 2.5 x " in summary.read_text(encoding="utf-8")


def test_html_that_cannot_be_written_breaks_nothing(suite: pytest.Pytester) -> None:
    suite.makeconftest("def pytest_sessionfinish(session):\n    (session.config.rootpath / 'out').write_text('')\n")
    result = suite.runpytest("--grpo-html=out/report.html", "-k", "green")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["grpo: --grpo-html *out/report.html: *; the report was not written"])


@pytest.mark.parametrize("text", ["", " ", ".", "taken/report.html"])
def test_a_page_that_can_never_be_written_is_a_usage_error(pytester: pytest.Pytester, text: str) -> None:
    (pytester.path / "taken").write_text("")
    result = pytester.runpytest(f"--grpo-html={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --grpo-html '{text}': *; name *"])


def test_a_property_that_is_no_verdict_is_named_and_ignored(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_own(record_property): record_property('grpo.note', 'mine')")
    result = pytester.runpytest("-W", "ignore")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["grpo: property 'grpo.note' of *::test_own is not a verdict; ignored"])
    result.stdout.no_fnmatch_line("*grpo verdicts*")


def test_hook_sees_each_verdict_once(suite: pytest.Pytester) -> None:
    suite.makeconftest(HOOK)
    suite.runpytest()
    assert sorted(suite.path.joinpath("seen.txt").read_text().splitlines()) == SEEN


@pytest.mark.usefixtures("few_plugins")
def test_rows_of_xdist_workers_reach_the_controller_once(suite: pytest.Pytester) -> None:
    suite.makeconftest(HOOK)
    result = suite.runpytest("-n2", "-W", "ignore", "--color=no", "--benchmark-json=out.json", "--grpo-html=r.html")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(TABLE, consecutive=True)
    assert sorted(suite.path.joinpath("seen.txt").read_text().splitlines()) == SEEN
    assert "<h1>1 of 3 gates fails</h1>" in suite.path.joinpath("r.html").read_text(encoding="utf-8")
    assert not suite.path.joinpath("out.json").exists()  # pytest-benchmark disables itself under xdist


MOSTLY_UNDECIDED = """
import json

import pytest

ROWS = json.loads({rows!r})

@pytest.mark.parametrize("number", range(len(ROWS)))
def test_gate(request, number):
    request.node.user_properties.append(tuple(ROWS[number]))
"""


def run_gates(pytester: pytest.Pytester, verdicts: list[str], *arguments: str) -> pytest.RunResult:
    """One timing gate of each verdict, and an exact one that passes."""
    rows = [replace(SPEED, metric=f"speed{number}", verdict=verdict) for number, verdict in enumerate(verdicts)]
    exact = replace(CALLS, verdict="pass", reason="")
    pytester.makepyfile(
        test_suite=MOSTLY_UNDECIDED.format(rows=json.dumps([row.as_property() for row in [*rows, exact]]))
    )
    pytester.makeini("[pytest]\n")
    return pytester.runpytest(*arguments)


LINE = (
    "grpo: 2 of 3 timing gates are inconclusive: speed0, speed2; run on a quieter machine; "
    "--grpo-inconclusive xfail accepts them"
)


@pytest.mark.parametrize(
    ("verdicts", "arguments", "exit_code"),
    [
        (["inconclusive", "pass", "inconclusive"], [], 1),
        (["inconclusive", "pass", "inconclusive"], ["--grpo-inconclusive=majority"], 1),
        (["inconclusive", "pass", "inconclusive"], ["--grpo-inconclusive=xfail"], 0),
        (["inconclusive", "pass", "inconclusive"], ["-o", "grpo_inconclusive=xfail"], 0),
        (["inconclusive", "pass"], [], 0),
        (["inconclusive"], [], 1),
        ([], [], 0),
    ],
)
def test_a_session_that_decides_too_little_is_not_green(
    pytester: pytest.Pytester, verdicts: list[str], arguments: list[str], exit_code: int
) -> None:
    result = run_gates(pytester, verdicts, *arguments)
    result.assert_outcomes(passed=len(verdicts) + 1)
    assert result.ret == exit_code
    if exit_code and len(verdicts) == 3:
        result.stdout.fnmatch_lines([LINE])
    elif exit_code:
        result.stdout.fnmatch_lines(["grpo: 1 of 1 timing gate is inconclusive: speed0; *"])
    else:
        result.stdout.no_fnmatch_line("grpo: * inconclusive: *")


def test_an_interrupted_session_stays_interrupted_where_most_gates_are_inconclusive(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_broken="import pytest\ndef test_broken(): pytest.exit('enough', 2)")
    result = run_gates(pytester, ["inconclusive"], "test_suite.py", "test_broken.py")
    assert result.ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.usefixtures("few_plugins")
def test_the_controller_counts_what_its_workers_leave_undecided(pytester: pytest.Pytester) -> None:
    result = run_gates(pytester, ["inconclusive", "pass", "inconclusive"], "-n2", "-W", "ignore")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["grpo: 2 of 3 timing gates are inconclusive: *"])


def test_what_a_test_said_last_counts(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for _ in range(2):
                item.user_properties.clear()
                runtestprotocol(item, nextitem=nextitem)
                if "red" in item.name:
                    item.obj = lambda request, name: None
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
        """
    )
    suite.runpytest().stdout.fnmatch_lines(["1 pass, 0 fail, 0 inconclusive on *"])
