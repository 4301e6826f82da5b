"""docs/configuration.md and docs/options.md are what the code gives, and name what it reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import Field

from grpo_core.cli import GROUPS as COMMAND_GROUPS
from grpo_core.config import GrpoConfig, build_config
from grpo_core.config.section import Section
from scripts.configuration_page import allowed, configuration_page, field_texts, sections
from scripts.environment_variables import GROUPS
from scripts.markdown_table import table
from scripts.options_page import split_default
from scripts.write_pages import stale_pages

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
OPTIONS = (PROJECT_FOLDER / "docs/options.md").read_text(encoding="utf-8")
SOURCES = [
    PROJECT_FOLDER / "app.py",
    *(path for name in ("grpo_core", "pytest_grpo") for path in (PROJECT_FOLDER / name).rglob("*.py")),
]


class Example(Section):
    rank: int | None = Field(default=None, ge=1, le=8)
    """How many."""
    share: float = Field(default=0.5, gt=0, lt=1)


def variables_read(path: Path) -> Iterator[str]:
    """Names that ``os.environ``, or a mapping that stands for it, is asked for."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript):
            mapping, key = node.value, node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            mapping, key = node.func.value, node.args[0]
        else:
            continue
        is_environment = ast.unparse(mapping) in ("os.environ", "environment")
        if is_environment and isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value


def test_the_pages_are_what_the_code_gives():
    assert stale_pages() == [], "run: uv run python scripts/write_pages.py"


def test_every_key_has_a_row_and_all_but_the_plainest_a_text():
    keys = {
        (name, key): field_texts(section).get(key)
        for name, section in sections(GrpoConfig)
        for key in section.model_fields
        if f"{name}.{key}" not in dict(sections(GrpoConfig))
    }

    assert len(keys) > 50
    assert [f"{section}.{key}" for (section, key), text in keys.items() if text is None] == []
    assert all(f"\n| `{key}` |" in configuration_page() for _, key in keys)


def test_bounds_are_said_in_words():
    assert allowed(Example.model_fields["rank"]) == "integer, at least 1, at most 8"
    assert allowed(Example.model_fields["share"]) == "number, above 0, below 1"
    assert field_texts(Example) == {"rank": "How many."}


def test_the_example_file_is_allowed():
    import tomllib

    text = re.search(r"^```toml\n(.*?)^```", configuration_page(), flags=re.DOTALL | re.MULTILINE)
    assert text is not None

    assert build_config(tomllib.loads(text[1])).training.loss == "gspo"


def test_every_command_has_a_section():
    titles = re.findall(r"^## grpo (\w+)$", OPTIONS, flags=re.MULTILINE)

    assert titles == [command.name for group in COMMAND_GROUPS.values() for command in group]


def test_every_option_of_the_plugin_is_there(pytester: pytest.Pytester):
    shown = pytester.runpytest("--help").stdout.str()

    assert set(re.findall(r"--(?:grpo|modal)[a-z-]*", shown)) <= set(re.findall(r"--(?:grpo|modal)[a-z-]*", OPTIONS))


def test_every_environment_variable_that_is_read_is_there():
    known = {name for group in GROUPS.values() for name in group}
    read = {name for path in SOURCES for name in variables_read(path)}
    named = {
        name for path in SOURCES for name in re.findall(r"\bGRPO_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8"))
    }

    assert {"GRPO_HOME", "CC", "AXIOM_TOKEN", "LOCAL_RANK"} <= read
    assert read | named <= known
    assert named == {name for name in known if name.startswith("GRPO_")}
    assert all(f"| `{name}` |" in OPTIONS for name in known)


def test_a_default_leaves_the_text():
    assert split_default("how many (default: 8)") == ("how many", "`8`")
    assert (
        split_default("how long (default: 45; three times that when failing)")[1] == "45; three times that when failing"
    )
    assert split_default("as xfail (default) or fail") == ("as xfail (default) or fail", "")


def test_a_cell_stays_in_its_row():
    assert table(("a", "b"), [("x | y", "two\nlines")]) == "| a | b |\n|---|---|\n| x \\| y | two lines |"
