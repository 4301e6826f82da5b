from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
from pytest_grpo.against.worker.own_modules import MOVED, use_modules_of
use_modules_of(Path.cwd())
import pytest_grpo.gates, pytest_grpo.gate.gates
assert pytest_grpo.gates.Gate is pytest_grpo.gate.gates.Gate
import importlib
for name in MOVED:
    importlib.import_module(name)
import pytest_grpo.systems
print(pytest_grpo.systems.__file__)
"""


LACKING = """
from pathlib import Path
from pytest_grpo.against.worker.own_modules import use_modules_of
use_modules_of(Path.cwd())
import sys
sys.path.insert(0, ".")
import grpo_core.extras, grpo_core.hardware
assert Path(grpo_core.__file__).parent.parent == Path.cwd()
print(grpo_core.hardware.cpu_name.__name__, grpo_core.extras.missing_package.__name__)
"""


def test_an_old_tree_gets_what_this_plugin_needs(tmp_path: Path) -> None:
    (tmp_path / "grpo_core").mkdir()
    (tmp_path / "grpo_core/__init__.py").touch()
    (tmp_path / "grpo_core/errors.py").write_text("class MissingPackageError(ValueError): pass\n")
    assert run(tmp_path, LACKING) == "cpu_name missing_package"


def run(folder: Path, script: str = SCRIPT) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_old_names_are_todays_modules_and_systems_are_the_trees(tmp_path: Path) -> None:
    import pytest_grpo.systems

    assert run(tmp_path) == pytest_grpo.systems.__file__
    own = tmp_path / "pytest_grpo/systems/__init__.py"
    own.parent.mkdir(parents=True)
    own.write_text('"""Of the tree."""\n')
    assert run(tmp_path) == str(own)
