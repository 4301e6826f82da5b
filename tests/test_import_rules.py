"""DESIGN's import direction, read from the source: imports inside functions and under TYPE_CHECKING count too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).resolve().parent.parent

VALUES = {"errors", "types"}
BASE = VALUES | {"config", "home"}
POLICY = {
    *("attention", "block_attention", "corpus", "dense", "environments", "head", "heap", "layers", "lora", "model"),
    *("native", "packing", "prefix_tree", "presets", "tree_attention"),
}
LOWER = BASE | POLICY
MAY_IMPORT = {
    "__init__": BASE,
    **dict.fromkeys(VALUES, VALUES),
    **dict.fromkeys(BASE - VALUES, BASE),
    **dict.fromkeys(POLICY, LOWER),
    "rollout": LOWER | {"rollout"},
    "training": LOWER | {"training"},
    "telemetry": BASE | {"telemetry"},
    "schedule": LOWER | {"rollout", "training", "telemetry", "schedule"},
}
"""Rooms of grpo_core, and the rooms that each may import. One that is not listed (the CLI, a command) may import all,
and no listed one may import it."""

ONLY_IN_FUNCTIONS = {"grpo_core", "modal", "numpy", "pyarrow", "torch", "transformers", "wandb"}
"""What pytest_grpo may not import while it is loaded."""


def violations(root: Path) -> list[str]:
    """One line for each import under ``root`` that breaks a rule."""
    found = []
    for path in sorted(root.glob("grpo_core/**/*.py")):
        room = path.relative_to(root / "grpo_core").parts[0].removesuffix(".py")
        for line, module, _ in imports(path, root):
            if breaks_core_rule(room, module):
                found.append(f"{path.relative_to(root)}:{line} imports {module}")
    for path in sorted(root.glob("pytest_grpo/**/*.py")):
        for line, module, when_loaded in imports(path, root):
            if when_loaded and module.partition(".")[0] in ONLY_IN_FUNCTIONS:
                found.append(f"{path.relative_to(root)}:{line} imports {module} while it is loaded")
    return found


def breaks_core_rule(room: str, module: str) -> bool:
    package, _, rest = module.partition(".")
    if package in {"pytest", "_pytest", "pytest_grpo"}:
        return True
    return package == "grpo_core" and room in MAY_IMPORT and rest.partition(".")[0] not in MAY_IMPORT[room]


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


def test_every_listed_room_exists():
    rooms = {path.stem for path in (PROJECT_FOLDER / "grpo_core").iterdir()}
    assert set(MAY_IMPORT) <= rooms


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("grpo_core/types.py", "import grpo_core.config"),
        ("grpo_core/config/run.py", "from grpo_core.model.policy import load_policy"),
        ("grpo_core/lora/store.py", "from grpo_core import telemetry"),
        ("grpo_core/model/policy.py", "from grpo_core.rollout.protocol import RolloutEngine"),
        ("grpo_core/rollout/play/collector.py", "from grpo_core.training.loss import loss"),
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
        ("grpo_core/model/policy.py", "from grpo_core.model.presets import PRESETS\nfrom .config import ModelConfig"),
        (
            "grpo_core/schedule/loop.py",
            "import grpo_core.telemetry.events\nimport grpo_core.training.loss",
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
