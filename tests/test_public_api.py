"""The names that users import, with their signatures: a change of them is seen in review.

After an intended change write the text anew: ``uv run python -m tests.test_public_api > tests/public_api.txt``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import GenericAlias
from typing import Any

import pytest

import grpo_core

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
PACKAGES = ("grpo_core", "pytest_grpo")
PASSED_ALONG = {
    "grpo_core": {
        *("BatchCollector", "Collector", "Trainer", "Ranks"),
        *("LineCursor", "RegexCursor", "Node", "TrieNode"),
        *("ChatTemplate", "DecoderWeights", "RewardFunctionStats", "Section", "Sink", "StopRequest"),
    },
    "pytest_grpo": {"Comparison", "GateSession", "NotApplicableError", "PairedComparison", "PluginConfig"},
}
"""Private classes in public signatures: users neither make one nor read its fields."""


def signatures() -> str:
    """One line per public name, method and field, as the source annotates them: alike on every Python."""
    lines: list[str] = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(set(module.__all__) - {"__version__"}):
            lines += describe(f"{package}.{name}", getattr(module, name))
    return "\n".join(lines) + "\n"


def public_values(package: str) -> list[tuple[str, Any]]:
    module = importlib.import_module(package)
    return [(name, getattr(module, name)) for name in module.__all__ if name != "__version__"]


def is_own_class(value: object, package: str) -> bool:
    return isinstance(value, type) and value.__module__.startswith(f"{package}.")


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
        if isinstance(member, ast.FunctionDef) and is_public(member.name):
            marks = "".join(f"@{ast.unparse(mark)} " for mark in member.decorator_list)
            lines.append(f"  {marks}{member.name}{signature(member)}")
        elif isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_"):
            lines.append(f"  {ast.unparse(member)}")
        elif isinstance(member, ast.Assign) and not ast.unparse(member.targets[0]).startswith("_"):
            lines.append(f"  {ast.unparse(member)}")  # also the members of an enumeration
    return lines


def is_public(method: str) -> bool:
    """Operators are: users write ``a.x >= 1.3 * b.x``. How a value prints and checks itself is not promised."""
    if method.startswith("__"):
        return method not in {"__post_init__", "__repr__", "__str__"}
    return not method.startswith("_")


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
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    assert typed == {(source, name) for source, names in module._MODULES.items() for name in names.split()}
    assert {name for _, name in typed} | {"__version__"} == set(module.__all__)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_public_signature_has_public_classes(package: str):
    """What a user must make or gets has a public name, but for parts that only travel through the user's hands."""
    module = importlib.import_module(package)
    named = set()
    for name, value in public_values(package):
        words = re.findall(r"\w+", "\n".join(describe(name, value)))
        scope = vars(sys.modules[value.__module__]) if value.__module__.startswith(package) else {}
        named |= {word for word in words if is_own_class(scope.get(word), package)}

    assert named - set(module.__all__) == PASSED_ALONG[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str):
    """Its methods and properties too. What an engine has of its protocol is documented there."""
    engines = ("PlainEngine", "TorchEngine", "VllmEngine")
    shared = {f"{engine}.{name}" for engine in engines for name in dir(grpo_core.LocalEngine)}
    undocumented = {
        path
        for name, value in public_values(package)
        if not isinstance(value, GenericAlias)
        for path, member in ({name: value} | methods(name, value)).items()
        if (member.__doc__ or f"{name}(").startswith(f"{name}(")  # so begins what a dataclass makes up
    }

    assert undocumented - shared == set()


def methods(name: str, value: Any) -> dict[str, Any]:
    """Public methods and properties of the class ``value``, by path; none of anything else."""
    members = vars(value) if isinstance(value, type) else {}
    return {
        f"{name}.{key}": member
        for key, member in members.items()
        if not key.startswith("_")
        if isinstance(member, property | classmethod) or inspect.isfunction(member)
    }


def test_nothing_is_loaded_before_a_name_is_used():
    program = (
        "import sys, grpo_core, pytest_grpo\n"
        "print([name for name in sys.modules if name.startswith(('grpo_core.', 'pytest_grpo.', 'numpy', 'pydantic'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT_FOLDER, capture_output=True, text=True)

    assert done.stdout == "[]\n", done.stderr


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
