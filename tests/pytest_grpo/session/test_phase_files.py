"""With phases asked for, files without a phase marker are not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_grpo.session.phase_files import names_a_phase

BROKEN = "raise RuntimeError('this file was read')\n"
SAYS_SO = 'raise RuntimeError("read, though it only has @pytest.mark.phase2 in a text")\n'


@pytest.mark.parametrize("arguments", [["--phase=2"], ["-m", "phase2"], ["-m", "phase2 or phase3"]])
def test_other_files_are_not_read(project: pytest.Pytester, arguments: list[str]) -> None:
    project.makepyfile(test_broken=BROKEN, test_text=SAYS_SO)
    result = project.runpytest("--co", "-q", *arguments)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["test_suite.py::test_two"])


@pytest.mark.parametrize("arguments", [["-m", "phase2 or slow"], ["-m", "not phase3"], []])
def test_all_files_are_read_where_other_tests_are_wanted_too(project: pytest.Pytester, arguments: list[str]) -> None:
    project.makepyfile(test_broken=BROKEN)
    project.runpytest("--co", "-q", *arguments).stdout.fnmatch_lines(["*this file was read*"])


def test_a_file_that_is_named_is_read(project: pytest.Pytester) -> None:
    project.makepyfile(test_broken=BROKEN)
    project.runpytest("--phase=2", "test_broken.py").stdout.fnmatch_lines(["*this file was read*"])


def test_a_conftest_that_gives_markers_counts(project: pytest.Pytester) -> None:
    project.makepyfile(test_plain="def test_fast(grpo_gate): grpo_gate.check('adapter_cache_hits', 1)\n")
    project.makeconftest("def pytest_collection_modifyitems(items):\n    [i.add_marker('phase2') for i in items]\n")
    project.runpytest("--phase=2", "-k", "fast").assert_outcomes(passed=1, deselected=4)


@pytest.mark.parametrize(
    ("code", "names_one"),
    [
        ("import pytest\npytestmark = pytest.mark.phase3", True),
        ("from pytest import mark\n@mark.phase0\ndef test(): pass", True),
        ("item.add_marker('phase6')", True),
        ("marks = [f'phase{number}' for number in range(7)]", True),
        ("def broken(:  # phase2", True),
        ("TEXT = '''@pytest.mark.phase2'''", False),
        ("# phase2", False),
        ("phases = 7", False),
    ],
)
def test_what_counts_as_a_marker(code: str, names_one: bool, tmp_path: Path) -> None:
    path = tmp_path / "test_code.py"
    path.write_text(code)
    assert names_a_phase(path) is names_one


def test_the_hint_says_how_many_were_not_read(project: pytest.Pytester) -> None:
    project.makepyfile(test_plain="def test(): pass\n")
    result = project.runpytest("--phase=5")
    result.stdout.fnmatch_lines(["grpo: --phase: none of *, 1 files without a phase marker not read); *"])
