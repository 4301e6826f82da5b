"""docs/your-own-system.md shows files that stand elsewhere, run as they stand, and a table of all gates."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_core.home import cache_folder
from pytest_grpo.systems.protocol import GrpoSystem

CACHE = cache_folder()
PROJECT_FOLDER = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT_FOLDER / "examples" / "plain_system"
TEXT = (PROJECT_FOLDER / "docs" / "your-own-system.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"`(?P<file>[\w.]+)`:\n\n```(?:python|toml)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {match["file"]: match["content"] for match in BLOCK.finditer(TEXT)}
ENTRY_POINT = re.compile(r'^\[project\.entry-points\."(?P<group>[\w.]+)"\]\n(?P<line>.+)$', re.MULTILINE)
COUNT = """
def test_it_is_the_system_of_the_page(grpo_system):
    assert grpo_system.name == "first_system"
"""


LOADED = (AutoModelForCausalLM, AutoTokenizer)
"""What the system imports: an inner session forgets what it imported itself, and torch cannot be imported twice."""


def test_the_page_shows_the_example() -> None:
    assert set(BLOCKS) == {"first_system.py", "test_first_rows.py", "pyproject.toml", "conftest.py"}
    for file in ("first_system.py", "test_first_rows.py"):
        assert BLOCKS[file] == (EXAMPLE / file).read_text(encoding="utf-8")


def test_a_red_and_a_green_row_take_sixty_lines() -> None:
    shown = BLOCKS["first_system.py"] + BLOCKS["test_first_rows.py"]
    assert len(shown.splitlines()) <= 60


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with the system and a test that only asks for it."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("GRPO_CACHE", str(CACHE))
    pytester.makeini("[pytest]\n")
    shutil.copy(EXAMPLE / "first_system.py", pytester.path)
    pytester.makepyfile(COUNT)
    pytester.syspathinsert()
    return pytester


def test_the_entry_point_adds_a_system(project: pytest.Pytester) -> None:
    declared = ENTRY_POINT.search(BLOCKS["pyproject.toml"])
    assert declared is not None
    # What an installer writes for that table.
    metadata = project.mkdir("my_stack-1.0.dist-info")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-stack\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{declared['group']}]\n{declared['line'].replace(chr(34), '')}\n")
    project.runpytest("--grpo-system", "my_stack").assert_outcomes(passed=1)


def test_a_fixture_puts_a_system_in(project: pytest.Pytester) -> None:
    (project.path / "conftest.py").write_text(BLOCKS["conftest.py"])
    project.runpytest().assert_outcomes(passed=1)


def test_the_table_has_every_gate_and_every_method() -> None:
    table = TEXT.partition("## Which method opens which gate")[2].partition("\n\n`run(")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| ") and "`" in line]
    gates = {name for *_, cell in rows for name in re.findall(r"`(\w+)`", cell)}
    phases = tomllib.loads((PROJECT_FOLDER / "bench/thresholds.toml").read_text(encoding="utf-8"))["cpu"]
    missing = {name for metrics in phases.values() for name in metrics} - gates
    methods = {name for cell, *_ in rows for name in re.findall(r"`(\w+)`", cell)}
    known = {name for name in vars(GrpoSystem) if not name.startswith("_")} | {"grpo_core"}

    assert missing == set()
    assert methods <= known
    undescribed = known - methods - {"name", "decoders", "tokenizers", "logprob_tolerance", "grpo_core"}
    assert undescribed == set()
    assert all(f"`{name}`" in TEXT for name in ("decoders", "tokenizers", "logprob_tolerance"))
