"""Comparisons of revisions of a real repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pytest_grpo.against.conftest import Versions

pytestmark = pytest.mark.slow


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def history(versions: Versions) -> Versions:
    """Three commits: the second is 20 % slower, the third only has another noise."""
    git(versions.here, "init", "--quiet", "--initial-branch=main")
    git(versions.here, "add", ".")
    git(versions.here, "commit", "--quiet", "-m", "one")
    versions.change(versions.here, "1.0, 7.0", "1.2, 7.0")
    git(versions.here, "commit", "--quiet", "-am", "two")
    versions.change(versions.here, "Random(0)", "Random(3)")
    git(versions.here, "commit", "--quiet", "-am", "three")
    return versions


def state_of(folder: Path) -> list[str]:
    commands = (["status", "--porcelain=v2", "--branch"], ["worktree", "list"], ["for-each-ref"], ["stash", "list"])
    return [git(folder, *command) for command in commands]


def test_a_revision_is_compared_in_a_plain_project(history: Versions) -> None:
    before = state_of(history.here)
    slower = history.pytester.runpytest("test_speed.py", "--grpo-against", "HEAD~2", "--grpo-pairs=10,20")
    slower.assert_outcomes(failed=1)
    slower.stdout.re_match_lines([r"=+ grpo: here over HEAD~2 =+", r"  step\.tokens_per_second +0\.8.*slower"])
    same = history.pytester.runpytest("test_speed.py", "--grpo-against", "HEAD~1", "--grpo-pairs=10,20")
    same.assert_outcomes(passed=1)
    same.stdout.re_match_lines([r"  step\.tokens_per_second .*same"])
    assert [line for line in state_of(history.here)[0].splitlines() if not line.startswith("? ")] == [
        line for line in before[0].splitlines() if not line.startswith("? ")
    ]
    assert state_of(history.here)[1:] == before[1:]


def test_uncommitted_changes_are_part_of_this_side(history: Versions) -> None:
    history.change(history.here, "1.2, 7.0", "1.5, 7.0")
    result = history.pytester.runpytest("--grpo-against", "HEAD", "--grpo-pairs=10,20")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"  step\.tokens_per_second +0\.8.*slower"])


def test_one_revision_twice_is_measured_twice(history: Versions) -> None:
    done = run_ab(history.here, "main", "main", "--", "--grpo-pairs=10,20", "--grpo-json=rows.json")
    assert "grpo: main over main (other side)" in done.stdout
    rows = [row for row in json.loads((history.here / "rows.json").read_text())["rows"] if row["quantity"] == "seconds"]
    assert rows[0]["arms"].keys() == {"main", "main (other side)"}


def test_the_working_tree_is_called_here(history: Versions) -> None:
    done = run_ab(history.here, ".", "HEAD~1", "--", "--grpo-pairs=10,20")
    assert "grpo: here over HEAD~1" in done.stdout
    assert "the same code" not in done.stderr


def test_a_comma_in_a_folders_name_is_part_of_it(versions: Versions) -> None:
    other = versions.other.rename(versions.other.with_name("a, b"))
    done = run_ab(versions.here, ".", str(other), "--", "--grpo-pairs=10,20")
    assert "grpo: here over a, b" in done.stdout


def run_ab(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_grpo.against.ab", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_two_revisions_are_compared(history: Versions) -> None:
    before = state_of(history.here)
    history.change(history.here, "import library", "this is no python", "test_speed.py")
    history.change(history.here, "this is no python", "import library", "test_speed.py")
    done = run_ab(history.here, "main", "main~2", "--", "--grpo-pairs=10,20", "--grpo-tolerance", "0.03")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "grpo: main over main~2" in done.stdout
    assert "slower" in done.stdout
    faster = run_ab(history.here, "HEAD~2", "main", "--", "--grpo-pairs=10,20", "--grpo-json", "rows.json")
    assert faster.returncode == 0, faster.stdout + faster.stderr
    assert "faster" in faster.stdout
    assert (history.here / "rows.json").exists()
    assert state_of(history.here)[1:] == before[1:]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nowhere", "main"), "grpo: error: revision 'nowhere': "),
        (("main", "nowhere"), "grpo: error: revision 'nowhere': "),
        (("main", "main~1", "--phase", "17"), "grpo: error: --phase '17': "),
        (("main",), "grpo ab: error: "),
        (("main", "main~1", "--", "--grpo-against", "main"), "grpo: error: --grpo-against after --: "),
    ],
)
def test_a_mistake_is_one_line(history: Versions, arguments: tuple[str, ...], line: str) -> None:
    done = run_ab(history.here, *arguments)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(line)
