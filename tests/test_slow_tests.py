"""Tests marked ``slow`` wait for ``--slow``, for ``-m`` or for their own name, and nothing is lost on the way."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUITE = """
import pytest

def test_quick(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.slow
class TestOfAClass:
    def test_method(self): pass

@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sizes(size): pass
"""


IMPORTS_DUCKDB = "import duckdb\n\ndef test_query(): assert duckdb.sql('select 1').fetchall() == [(1,)]"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite under this repository's own conftest.py and markers."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # finding all that are installed takes time
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("\n    ".join(["[pytest]\nmarkers =", *settings["markers"]]))
    pytester.makepyfile(test_suite=SUITE)
    return pytester


@pytest.mark.parametrize(
    ("arguments", "num_passed"),
    [
        ([], 2),
        (["--slow"], 5),
        (["-m", "slow"], 3),
        pytest.param(["-m", "not slow"], 2, marks=pytest.mark.slow),
        pytest.param(["-m", "vllm"], 0, marks=pytest.mark.slow),
        (["test_suite.py::test_slow"], 1),
        pytest.param(["test_suite.py::test_slow", "test_suite.py"], 3, marks=pytest.mark.slow),
        pytest.param(["test_suite.py::TestOfAClass"], 1, marks=pytest.mark.slow),
        (["test_suite.py::TestOfAClass::test_method"], 1),
        pytest.param(["test_suite.py::test_sizes"], 2, marks=pytest.mark.slow),
        (["test_suite.py::test_sizes[2]"], 1),
        pytest.param(["test_suite.py"], 2, marks=pytest.mark.slow),
        pytest.param(["-k", "test_slow"], 0, marks=pytest.mark.slow),
    ],
)
def test_slow_tests_run_when_they_are_asked_for(
    project: pytest.Pytester, arguments: list[str], num_passed: int
) -> None:
    outcomes = project.runpytest("--strict-markers", *arguments).parseoutcomes()
    assert outcomes.get("passed", 0) == num_passed
    if not any("::" in argument for argument in arguments):
        assert num_passed + outcomes.get("deselected", 0) == 5


def test_a_folder_elsewhere_than_the_root_is_named_as_well(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.mkdir("inner") / "test_inner.py").write_text(SUITE)
    monkeypatch.chdir(project.path / "inner")
    project.runpytest("test_inner.py::test_slow", "--rootdir", str(project.path)).assert_outcomes(passed=1)


def test_with_slow_the_unmarked_ones_that_took_long_are_listed(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a list and no failure: how long a test takes is up to the machine."""
    conftest = project.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("QUICK_S = 2.0", "QUICK_S = -1.0"))
    listed = project.runpytest("--slow")
    listed.assert_outcomes(passed=5)
    listed.stdout.re_match_lines([r" +[\d.]+ s test_suite\.py::test_sizes\[1\]", "=+ 5 passed"], consecutive=False)
    listed.stdout.no_fnmatch_line("* s test_suite.py::test_slow")
    project.runpytest().stdout.no_fnmatch_line("*not marked slow*")


@pytest.mark.slow
def test_nothing_is_said_to_leak_after_the_summary(project: pytest.Pytester) -> None:
    """Its objects, frozen before the tests, were out of reach of the interpreter's last collection."""
    project.makepyfile(test_duckdb=IMPORTS_DUCKDB)
    result = project.runpytest_subprocess("test_duckdb.py")
    result.assert_outcomes(passed=1)
    assert "leaked" not in result.stdout.str() + result.stderr.str()


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "num_workers"), [([], 2), (["-n0"], 0), (["-k", "quick"], 0), (["."], 0)])
def test_the_whole_suite_runs_in_two_processes(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str], num_workers: int
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist -p grpo")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    project.path.joinpath("pytest.ini").write_text("[pytest]\ntestpaths = .\nmarkers = slow: as in this repository\n")
    result = project.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.OK
    assert ("2 workers [" in result.stdout.str()) == (num_workers == 2)
