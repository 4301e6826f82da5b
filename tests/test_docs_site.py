"""The documentation site: every page has its place, the entry page leads to it, the reference names everything."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo_core import cli
from pytest_grpo.session import fixtures
from pytest_grpo.settings.phases import PHASES

DOCS = Path(__file__).resolve().parent.parent / "docs"
SITE: dict[str, Any] = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))
WORDS = {
    *("phase", "gate", "arm", "quantity", "pair", "round", "look", "verdict", "A/A control", "baseline", "system"),
    *("completion", "trajectory", "group", "policy lag"),
}


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def pages_of(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages_of(part)]


def block(page: str, file: str) -> str:
    found = re.search(rf"^`{re.escape(file)}`:\n\n```\w+\n(.*?)^```$", read(page), flags=re.DOTALL | re.MULTILINE)
    assert found is not None, f"{page} has no block {file}"
    return found[1]


def test_every_page_is_in_the_navigation_once():
    assert sorted(pages_of(SITE["nav"])) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_entry_page_leads_to_every_page():
    linked = set(re.findall(r"\]\(([^)#]+)\)", read("index.md")))

    assert linked == set(pages_of(SITE["nav"])) - {"index.md"}


def test_the_glossary_has_the_words_that_the_pages_use():
    glossary = read("index.md").partition("## Glossary")[2]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", glossary, flags=re.MULTILINE)

    assert {word for word, _, _ in rows} - {"word"} == WORDS
    assert all(meaning.strip() and example.strip() for _, meaning, example in rows)


def test_the_site_asks_no_other_host():
    assert SITE["theme"]["font"] is False
    assert {name for plugin in SITE["plugins"] for name in ([plugin] if isinstance(plugin, str) else plugin)} == {
        "search",
        "mkdocstrings",
    }
    assert "analytics" not in SITE["extra"]


@pytest.mark.parametrize("package", ["grpo_core", "pytest_grpo"])
def test_the_reference_has_every_public_name(package: str):
    page = read(f"api/{package}.md")
    shown = re.findall(rf"^::: {package}\.(\w+)$", page, flags=re.MULTILINE)

    assert sorted([*shown, "__version__"]) == sorted(importlib.import_module(package).__all__)
    assert f"`{package}.__version__`" in page


def test_the_plugin_reference_has_every_fixture_marker_and_hook():
    page = read("reference.md")
    rows = set(re.findall(r"^\| `(\w+)", page, flags=re.MULTILINE))
    names = {name for name in vars(fixtures) if name.startswith("grpo_")}

    assert len(names) == 7
    assert names | {phase.marker for phase in PHASES} <= rows
    assert "`pytest_grpo_verdict(config, row)`" in page


def test_the_plugin_reference_has_every_ini_value_and_no_other(pytester: pytest.Pytester):
    ini = read("reference.md").partition("## Ini values")[2]
    shown = pytester.runpytest("--help").stdout.str().partition("[pytest] configuration options")[2]
    known = set(re.findall(r"^  (grpo_\w+) \(", shown, flags=re.MULTILINE))

    assert len(known) > 20
    assert set(re.findall(r"`(grpo_\w+)`", ini)) == known


@pytest.mark.parametrize("name", ["index.md", "configuration.md", "options.md"])
def test_the_commands_of_a_page_parse(name: str):
    lines = re.findall(r"^\$ uv run grpo ([^\n#]+)", read(name), flags=re.MULTILINE)

    assert lines
    for line in lines:
        cli._parser().parse_args(shlex.split(line))


@pytest.fixture
def example(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\ngrpo_control = false\ngrpo_max_cores_of_others = inf\n")
    for file in ("test_speed.py", "conftest.py"):
        (pytester.path / file).write_text(block("reference.md", file), encoding="utf-8")
    return pytester


def test_the_examples_of_the_plugin_reference_pass(example: pytest.Pytester):
    example.runpytest().assert_outcomes(passed=2, deselected=1)

    assert (example.path / "verdicts.txt").read_text().split()[:3] == ["tokens_per_second", "pass", "2"]


def test_the_example_of_a_phase_passes(example: pytest.Pytester):
    example.runpytest("--phase", "3").assert_outcomes(passed=1, deselected=2)
