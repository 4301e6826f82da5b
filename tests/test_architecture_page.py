"""docs/architecture.md shows the data's way and the files of a step: each is held against the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
PAGE = (PROJECT_FOLDER / "docs/architecture.md").read_text(encoding="utf-8")
ARROWS = re.findall(r"^\| (\w+) \| (\w+) \| `([\w.]+)` \| `([\w./]+)` \|$", PAGE, re.MULTILINE)
ROOMS_IN_ROOMS = re.findall(r"^\| `([\w/]+)` \| (`\w+`(?:, `\w+`)*) \|$", PAGE, re.MULTILINE)
PICTURE = PAGE.partition("```text\n")[2].partition("```")[0]
REPORTS = {"table": "Row", "page": "Entry", "baseline": "Row"}
"""What a report is made of: its function gives no value of a type of its own."""


def source_of(file: str, name: str) -> str:
    """The signature and body of the function ``name``, with the fields of its class."""
    text = (PROJECT_FOLDER / file).read_text(encoding="utf-8")
    scope, *rest = name.split(".")
    body: list[ast.stmt] = ast.parse(text).body
    found = next(node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == scope)
    if not rest:
        return ast.unparse(found)
    assert isinstance(found, ast.ClassDef)
    method = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == rest[0])
    return f"{scope}\n{ast.unparse(method)}"


@pytest.mark.parametrize(("given", "made", "function", "file"), ARROWS)
def test_each_arrow_is_a_function_that_names_both_ends(given: str, made: str, function: str, file: str):
    words = set(re.findall(r"\w+", source_of(file, function)))

    assert words & {given, given.lower(), f"{given.lower()}s"}
    assert REPORTS.get(made, made) in words


def test_the_picture_shows_the_arrows_of_the_table():
    drawn = set(re.findall(r"\w+", PICTURE)) - {"a", "training", "step", "verdict"}

    assert len(ARROWS) >= 17
    assert drawn <= {end for given, made, *_ in ARROWS for end in (given, made)}
    assert {made for _, made, *_ in ARROWS} <= drawn


def test_every_file_that_the_page_names_exists():
    files = set(re.findall(r"`((?:grpo_core|pytest_grpo|bench)/[\w./]+)`", PAGE))

    assert len(files) > 30
    assert [file for file in sorted(files) if not (PROJECT_FOLDER / file).exists()] == []


def test_every_room_says_in_its_first_line_what_it_holds():
    rooms = [
        path for package in ("grpo_core", "pytest_grpo") for path in PROJECT_FOLDER.glob(f"{package}/**/__init__.py")
    ]

    assert len(rooms) > 40
    assert [str(path) for path in rooms if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize(("room", "shown"), ROOMS_IN_ROOMS)
def test_the_rooms_of_a_room_are_those_that_it_has(room: str, shown: str):
    folders = sorted(path.parent.name for path in (PROJECT_FOLDER / room).glob("*/__init__.py"))

    assert re.findall(r"\w+", shown) == folders


def test_no_room_is_crowded():
    crowded = {
        str(path.parent.relative_to(PROJECT_FOLDER))
        for package in ("grpo_core", "pytest_grpo")
        for path in PROJECT_FOLDER.glob(f"{package}/**/__init__.py")
        if len(list(path.parent.glob("*.py"))) > 15
    }

    assert len(ROOMS_IN_ROOMS) >= 6
    assert crowded == {"grpo_core/commands"}  # a file per command
