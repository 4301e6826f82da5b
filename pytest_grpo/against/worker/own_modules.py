"""Which modules a worker takes from its side's tree, and which from this plugin.

The plugin is this one on both sides. ``pytest_grpo.systems`` fits it to a training stack and so belongs to the tree,
where the tree has it. Tests of older trees import modules of the plugin by names that have changed since.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

SYSTEMS = "pytest_grpo.systems"

MOVED = {
    "pytest_grpo.config": "pytest_grpo.settings.config",
    "pytest_grpo.device": "pytest_grpo.settings.device",
    "pytest_grpo.explain": "pytest_grpo.gate.explain",
    "pytest_grpo.fixtures": "pytest_grpo.session.fixtures",
    "pytest_grpo.gates": "pytest_grpo.gate.gates",
    "pytest_grpo.measure": "pytest_grpo.measuring.sampling.rounds",
    "pytest_grpo.measuring.clock": "pytest_grpo.measuring.sampling.clock",
    "pytest_grpo.measuring.error_budget": "pytest_grpo.measuring.statistics.error_budget",
    "pytest_grpo.measuring.rounds": "pytest_grpo.measuring.sampling.rounds",
    "pytest_grpo.measuring.sample": "pytest_grpo.measuring.sampling.sample",
    "pytest_grpo.measuring.sampler": "pytest_grpo.measuring.sampling.rounds",
    "pytest_grpo.measuring.stats": "pytest_grpo.measuring.statistics.sign_test",
    "pytest_grpo.phases": "pytest_grpo.settings.phases",
    "pytest_grpo.stats": "pytest_grpo.measuring.statistics.sign_test",
    "pytest_grpo.thresholds": "pytest_grpo.settings.thresholds",
}
"""Today's name by the old one."""

LACKING = ("grpo_core.extras", "grpo_core.hardware")
"""Modules of the product that this plugin itself needs, and that older trees lack: they are this version's there."""


class OwnModules:
    """A finder of ``sys.meta_path``."""

    def __init__(self, root: Path) -> None:
        self._systems = root / "pytest_grpo" / "systems" / "__init__.py"

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == SYSTEMS and self._systems.is_file():
            folders = [str(self._systems.parent)]
            return spec_from_file_location(name, self._systems, submodule_search_locations=folders)
        if name in MOVED:
            return ModuleSpec(name, _Renamed(MOVED[name]))
        return None


class _Renamed(Loader):
    """Loads a module under an older name: another module with the same objects."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        today = importlib.import_module(self._name)
        vars(module).update({name: value for name, value in vars(today).items() if not name.startswith("__")})


class LackingModules:
    """A finder of ``sys.meta_path`` for what no other one has found."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in LACKING:
            return None
        beside = Path(__file__).resolve().parents[3]
        return spec_from_file_location(name, beside.joinpath(*name.split(".")).with_suffix(".py"))


def use_modules_of(root: Path) -> None:
    """Let this process find modules as a worker of ``root`` does."""
    sys.meta_path.insert(0, OwnModules(root))
    sys.meta_path.append(LackingModules())
