"""The layers that docs/architecture.md shows, held against the source: imports inside functions and for types count."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
PACKAGES = ("grpo_core", "pytest_grpo")


def read_layers(page: str) -> dict[str, list[set[str]]]:
    """Per package the rooms of each layer, lowest first."""
    block = page.partition("## Layers")[2].partition("```text\n")[2].partition("```")[0]
    layers: dict[str, list[set[str]]] = {}
    for line in filter(str.strip, block.splitlines()):
        if not line.startswith(" "):
            layers[line.strip()] = []
        else:
            layers[list(layers)[-1]].append(set(line.split()))
    return layers


LAYERS = read_layers((PROJECT_FOLDER / "docs/architecture.md").read_text(encoding="utf-8"))
KNOW_TELEMETRY = {"telemetry", "schedule", "explain", "axiom", "cloud", "dashboard", "profiling", "commands", "cli"}
ONLY_IN_FUNCTIONS = {"grpo_core", "modal", "numpy", "pyarrow", "torch", "transformers", "wandb"}
"""What pytest_grpo may not import while it is loaded."""


def violations(root: Path) -> list[str]:
    """One line for each import under ``root`` that breaks a rule."""
    found = []
    for package in PACKAGES:
        for path in sorted(root.glob(f"{package}/**/*.py")):
            room = path.relative_to(root / package).parts[0].removesuffix(".py")
            for line, module, when_loaded in imports(path, root):
                if room == "__init__" and not when_loaded:
                    continue  # the public door names what it exports, and loads it when it is asked for
                if breaks_a_rule(package, room, module):
                    found.append(f"{path.relative_to(root)}:{line} imports {module}")
                elif when_loaded and module.partition(".")[0] in ONLY_IN_FUNCTIONS and package == "pytest_grpo":
                    found.append(f"{path.relative_to(root)}:{line} imports {module} while it is loaded")
    return found


def breaks_a_rule(package: str, room: str, module: str) -> bool:
    """Whether a file in ``room`` of ``package`` may not import ``module``."""
    target, _, rest = module.partition(".")
    if package == "grpo_core" and target in {"pytest", "_pytest", "pytest_grpo"}:
        return True
    if target != package:
        return False
    if room == "__init__":
        return True
    imported = rest.partition(".")[0]
    if imported == room:
        return False
    if imported == "telemetry" and room not in KNOW_TELEMETRY:
        return True
    return floor(package, imported) >= floor(package, room)


def floor(package: str, room: str) -> int:
    """The number of the layer that ``room`` is in. One that the page does not show is above all."""
    numbers = [number for number, rooms in enumerate(LAYERS[package]) if room in rooms]
    return numbers[0] if numbers else len(LAYERS[package])


def imports(path: Path, root: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, full module name, and whether the import runs when the file is loaded."""
    package = path.relative_to(root).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    loaded = set(nodes_run_when_loaded(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*base, *filter(None, [node.module])))
            # A name may be a submodule: it counts by its full path, which starts with that of its module.
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield node.lineno, name, node in loaded


def nodes_run_when_loaded(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    for child in ast.iter_child_nodes(node):
        yield from nodes_run_when_loaded(child)


def test_the_project_keeps_the_rules():
    assert violations(PROJECT_FOLDER) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_shows_every_room_once(package: str):
    shown = sorted(room for layer in LAYERS[package] for room in layer)
    folder = PROJECT_FOLDER / package
    rooms = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}

    assert shown == sorted(rooms - {"__init__"})


def module_edges(root: Path) -> dict[str, set[str]]:
    """What each module of the packages imports of them. The public doors are left out: they name everything."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in root.glob(f"{package}/**/*.py")
    }
    edges: dict[str, set[str]] = {name: set() for name in paths if name not in PACKAGES}
    for name in edges:
        for _, target, _ in imports(paths[name], root):
            found = target if target in paths else target.rpartition(".")[0]
            if found in edges and found != name:
                edges[name].add(found)
    return edges


def folder_edges(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between the folders or files that stand side by side: each import counts where the two paths part."""
    found: dict[str, set[str]] = {}
    for name, targets in edges.items():
        for target in targets:
            here, there = name.split("."), target.split(".")
            depth = next((at for at, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), None)
            if depth is not None:
                found.setdefault(".".join(here[: depth + 1]), set()).add(".".join(there[: depth + 1]))
    return found


def circles(edges: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Sets of names that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for after in edges.get(todo.pop(), set()) - seen:
                seen.add(after)
                todo.append(after)
        reach[start] = seen
    return {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in edges if a in reach[a]}


def test_no_module_and_no_folder_is_in_an_import_circle():
    edges = module_edges(PROJECT_FOLDER)

    assert circles(edges) == set()
    assert circles(folder_edges(edges)) == set()


def test_a_circle_of_modules_and_one_of_folders_are_found(tmp_path: Path):
    for path, source in {
        "grpo_core/lora/a.py": "def f():\n    from grpo_core.lora import b",
        "grpo_core/lora/b.py": "from grpo_core.lora.a import f",
        "grpo_core/x/one.py": "import grpo_core.y.two",
        "grpo_core/x/three.py": "",
        "grpo_core/y/two.py": "",
        "grpo_core/y/four.py": "from grpo_core.x import three",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    edges = module_edges(tmp_path)

    assert circles(edges) == {frozenset({"grpo_core.lora.a", "grpo_core.lora.b"})}
    assert frozenset({"grpo_core.x", "grpo_core.y"}) in circles(folder_edges(edges))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("grpo_core/types.py", "import grpo_core.config"),
        ("grpo_core/config/run.py", "from grpo_core.model.policy import load_policy"),
        ("grpo_core/lora/store.py", "from grpo_core import telemetry"),
        ("grpo_core/model/policy.py", "from grpo_core.rollout.protocol import RolloutEngine"),
        ("grpo_core/rollout/play/collector.py", "from grpo_core.training.trainer import Trainer"),
        ("grpo_core/training/trainer.py", "from grpo_core.rollout.protocol import RolloutEngine"),
        ("grpo_core/training/trainer.py", "def step():\n    from grpo_core.telemetry.events import Telemetry"),
        ("grpo_core/training/trainer.py", "from ..rollout import protocol"),
        ("grpo_core/training/trainer.py", "from .. import schedule"),
        ("grpo_core/telemetry/sinks.py", "from grpo_core.schedule.loop import train"),
        (
            "grpo_core/telemetry/sinks.py",
            "import typing\nif typing.TYPE_CHECKING:\n    import grpo_core.lora",
        ),
        ("grpo_core/schedule/loop.py", "from grpo_core.cli import main"),
        ("grpo_core/schedule/loop.py", "from grpo_core.commands.train import run"),
        ("grpo_core/cli.py", "def main():\n    import pytest"),
        ("grpo_core/cli.py", "from pytest_grpo.settings.phases import PHASES"),
        ("grpo_core/__init__.py", "from grpo_core.model.policy import load_policy"),
        ("pytest_grpo/plugin.py", "import torch"),
        ("pytest_grpo/plugin.py", "try:\n    from grpo_core.errors import GrpoError\nexcept ImportError:\n    pass"),
        ("pytest_grpo/remote/modal/remote.py", "class Remote:\n    import modal"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, source: str):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)

    assert [line.partition(":")[0] for line in violations(tmp_path)] == [path]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("grpo_core/types.py", "import torch"),
        ("grpo_core/__init__.py", "import typing\nif typing.TYPE_CHECKING:\n    from grpo_core.home import Home"),
        ("grpo_core/model/policy.py", "from grpo_core.model.presets import PRESETS\nfrom .config import ModelConfig"),
        (
            "grpo_core/schedule/loop.py",
            "import grpo_core.telemetry.events\nimport grpo_core.training.trainer",
        ),
        (
            "grpo_core/commands/train.py",
            "from grpo_core.schedule.loop import train\nimport grpo_core.telemetry",
        ),
        ("pytest_grpo/plugin.py", "import pytest\ndef run():\n    import torch, grpo_core"),
        ("pytest_grpo/remote/modal/remote.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_an_allowed_import_is_not_found(tmp_path: Path, path: str, source: str):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)

    assert violations(tmp_path) == []


def test_light_modules_load_nothing_heavy():
    heavy = ["torch", "transformers", "pyarrow", "wandb", "axiom_py", "modal", "duckdb", "diplomacy"]
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, grpo_core.types, grpo_core.config, pytest_grpo.plugin\n"
            f"print(*[name for name in {heavy} if name in sys.modules])",
        ],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=True,
    )

    assert loaded.stdout.split() == []
