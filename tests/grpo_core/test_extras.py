"""A package that is not installed is one line that names the extra which brings it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from grpo_core.errors import GrpoError, MissingPackageError
from grpo_core.extras import MODULES_OF_EXTRAS, install_command, missing_modules, missing_package, naming_extras

PROJECT_FOLDER = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = {
    "wandb-workspaces": "wandb_workspaces",
    "axiom-py": "axiom_py",
    "outlines-core": "outlines_core",
    "opentelemetry-proto": "opentelemetry",
    "math-verify": "math_verify",
    "reasoning-gym": "reasoning_gym",
}
"""Where a module has another name than its package."""

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
"""Makes the packages that ``missing`` names missing."""


def run_without(missing: Iterable[str], code: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT.format(missing=set(missing)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def own(texts: Iterable[str]) -> Iterator[str]:
    """The modules of these requirements, those of pytest-grpo's other extras left out."""
    for name in (Requirement(text).name for text in texts):
        if name != PROJECT["name"]:
            yield MODULES.get(name, name)


@pytest.mark.parametrize("extra", ["train", "modal", "diplomacy", "dashboard", "otel"])
def test_the_modules_are_those_of_the_packages_that_the_extra_lists(extra: str) -> None:
    assert set(MODULES_OF_EXTRAS[extra]) == set(own(PROJECT["optional-dependencies"][extra]))


def test_every_extra_exists_and_its_main_package_is_among_its_modules() -> None:
    for extra, modules in MODULES_OF_EXTRAS.items():
        assert set(own(PROJECT["optional-dependencies"][extra])) <= set(modules)


def test_the_error_names_the_package_and_what_to_install() -> None:
    with pytest.raises(MissingPackageError) as raised, naming_extras():
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert str(raised.value) == "the package torch is not installed; run: pip install 'pytest-grpo[train]'"
    assert isinstance(raised.value, (GrpoError, ImportError))


@pytest.mark.parametrize("error", [ModuleNotFoundError(name="grpo_core.nope"), ModuleNotFoundError("no name")])
def test_other_missing_modules_stay_as_they_are(error: ModuleNotFoundError) -> None:
    assert missing_package(error) is None
    with pytest.raises(ModuleNotFoundError) as raised, naming_extras():
        raise error
    assert raised.value is error


def test_what_is_missing_is_found_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES_OF_EXTRAS, "modal", ("pytest", "grpo_not_there"))
    assert missing_modules("modal") == ["grpo_not_there"]
    assert install_command("train", "modal") == "pip install 'pytest-grpo[train,modal]'"


def test_a_public_name_that_needs_a_missing_package_says_so() -> None:
    ended = run_without(["pydantic"], "from grpo_core import Home\nfrom grpo_core import GrpoConfig")
    assert ended.stderr.splitlines()[-1] == (
        "grpo_core.errors.MissingPackageError: the package pydantic is not installed; run: pip install "
        "'pytest-grpo[train]'"
    )


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        ("train", MODULES_OF_EXTRAS["train"], "train"),
        ("train --help", MODULES_OF_EXTRAS["train"], "train"),
        ("train --steps 1", ["torch"], "train"),
        ("profile", MODULES_OF_EXTRAS["train"], "train"),
        ("benchmark", MODULES_OF_EXTRAS["train"], "train"),
        ("doctor", MODULES_OF_EXTRAS["train"], "train"),
        ("panels", MODULES_OF_EXTRAS["dashboard"], "dashboard"),
    ],
)
def test_a_command_that_lacks_a_package_says_so_in_one_line(
    arguments: str, missing: Iterable[str], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    ended = run_without(missing, f"from grpo_core.cli import main\nsys.exit(main({arguments.split()}))")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("grpo: error: ")
    assert line.endswith(install_command(extra))
    assert ended.returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", ["--help", "--version", "bench --help", "init --help", "compare --help"])
def test_what_needs_no_training_stack_runs_without_one(arguments: str) -> None:
    code = f"from grpo_core.cli import main\nsys.exit(main({arguments.split()}))"
    ended = run_without([module for modules in MODULES_OF_EXTRAS.values() for module in modules], code)
    assert (ended.returncode, ended.stderr) == (0, "")
