"""The names that users import, with their signatures: a change of them is seen in review.

After an intended change write the text anew: ``uv run python -m tests.test_public_api > tests/public_api.txt``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
PACKAGES = ("grpo_core", "pytest_grpo")


def signatures() -> str:
    """One line per public name, method and field, as the source annotates them: alike on every Python."""
    lines: list[str] = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(set(module.__all__) - {"__version__"}):
            lines += describe(f"{package}.{name}", getattr(module, name))
    return "\n".join(lines) + "\n"


def describe(name: str, value: object) -> list[str]:
    value = inspect.unwrap(value) if callable(value) else value
    if not isinstance(value, type) and not inspect.isfunction(value):
        return [f"{name} = {value}".replace("collections.abc.", "")]
    node = ast.parse(inspect.getsource(value)).body[0]
    if isinstance(node, ast.FunctionDef):
        return [name + signature(node)]
    assert isinstance(node, ast.ClassDef)
    lines = [f"class {name}({', '.join(map(ast.unparse, node.bases))})"]
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and (not member.name.startswith("_") or member.name == "__init__"):
            marks = "".join(f"@{ast.unparse(mark)} " for mark in member.decorator_list)
            lines.append(f"  {marks}{member.name}{signature(member)}")
        elif isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_"):
            lines.append(f"  {ast.unparse(member)}")
    return lines


def signature(node: ast.FunctionDef) -> str:
    returned = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"({ast.unparse(node.args)}){returned}"


def test_the_signatures_are_those_that_were_agreed_on():
    agreed = (PROJECT_FOLDER / "tests/public_api.txt").read_text(encoding="utf-8")
    assert signatures() == agreed, "write it anew: uv run python -m tests.test_public_api > tests/public_api.txt"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_three_lists_of_names_agree(package: str):
    """What type checkers read, what ``import *`` and documentation read, and what is loaded."""
    module = importlib.import_module(package)
    tree = ast.parse((PROJECT_FOLDER / package / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        (node.module, alias.asname) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    assert typed == {(source, name) for source, names in module._MODULES.items() for name in names.split()}
    assert {name for _, name in typed} | {"__version__"} == set(module.__all__)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str):
    module = importlib.import_module(package)
    values = [getattr(module, name) for name in module.__all__]
    undocumented = [
        value.__name__ for value in values if isinstance(value, type) or inspect.isfunction(value) if not value.__doc__
    ]

    assert undocumented == []


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'grpo_core' has no attribute 'Trainr'"):
        importlib.import_module("grpo_core").Trainr  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_tells_that_it_is_typed(package: str):
    assert (PROJECT_FOLDER / package / "py.typed").is_file()


def test_light_names_load_nothing_heavy():
    names = "Home, GrpoError, Observation, build_config"
    program = f"import sys\nfrom grpo_core import {names}\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT_FOLDER, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


if __name__ == "__main__":
    print(signatures(), end="")
