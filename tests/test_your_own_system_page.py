"""docs/your-own-system.md is run as it stands: its blocks become the files that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "your-own-system.md"
BLOCK = re.compile(r"^`(?P<file>[\w.]+)`:\n\n```\w+\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRY_POINT = re.compile(r'^\[project\.entry-points\."(?P<group>[\w.]+)"\]\n(?P<line>.+)$', re.MULTILINE)


@pytest.fixture
def blocks() -> dict[str, str]:
    found = {match["file"]: match["content"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}
    assert set(found) == {"my_stack.py", "pyproject.toml", "conftest.py", "test_my_stack.py"}
    return found


@pytest.fixture
def project(blocks: dict[str, str], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with the stack and its test, which knows nothing of the settings around it."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\n")
    for file in ("my_stack.py", "test_my_stack.py"):
        (pytester.path / file).write_text(blocks[file])
    pytester.syspathinsert()
    return pytester


def test_the_entry_point_adds_a_system(project: pytest.Pytester, blocks: dict[str, str]) -> None:
    declared = ENTRY_POINT.search(blocks["pyproject.toml"])
    assert declared is not None
    # What an installer writes for that table.
    metadata = project.mkdir("my_stack-1.0.dist-info")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-stack\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{declared['group']}]\n{declared['line'].replace(chr(34), '')}\n")
    result = project.runpytest("--phase", "2", "--grpo-system", "my_stack", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*SKIPPED*system my_stack: has no train_step; leave out the tests that need it*"])


def test_a_fixture_puts_a_system_in(project: pytest.Pytester, blocks: dict[str, str]) -> None:
    (project.path / "conftest.py").write_text(blocks["conftest.py"])
    project.runpytest("--phase", "2").assert_outcomes(passed=1, skipped=1)


def test_it_takes_less_than_forty_lines(blocks: dict[str, str]) -> None:
    added = "".join(blocks[file] for file in ("my_stack.py", "pyproject.toml", "conftest.py"))
    assert len(added.splitlines()) < 40
