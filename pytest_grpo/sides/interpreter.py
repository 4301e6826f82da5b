"""Which Python runs a side: this process's, or that of an environment with other packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from packaging.requirements import Requirement

from pytest_grpo.sides.environments import environment_python
from pytest_grpo.sides.locks import lock_changes
from pytest_grpo.sides.packages import Package, installed_packages, parse_packages
from pytest_grpo.sides.recipe import make_recipe
from pytest_grpo.sides.uv import Uv, project_settings


def this_python() -> Path:
    """This process's interpreter, by the name that makes it the one of its environment."""
    return Path(os.path.abspath(sys.executable))


@dataclass(frozen=True, slots=True)
class PackageChoice:
    """The installed packages, and what ``--grpo-with`` asks for instead of some of them."""

    installed: Mapping[str, Package]
    asked: Mapping[str, Requirement]

    @classmethod
    def parse(cls, packages: Sequence[str]) -> PackageChoice:
        """Raises pytest.UsageError when one of ``packages`` is no NAME==VERSION, or when uv is not installed."""
        installed = installed_packages()
        asked = parse_packages(packages, installed)
        if asked:
            Uv.find(f"--grpo-with {packages[0]}")
        return cls(installed, asked)

    def editable_path(self, tree: Path) -> list[str]:
        """Entries of the import path for editable installs outside of ``tree``: no environment has them."""
        packages = [package for package in self.installed.values() if package.is_editable and package.url]
        projects = [Path(url2pathname(urlsplit(package.url or "").path)).resolve() for package in packages]
        left_out = (tree, Path(sys.prefix).resolve())  # an environment may lie in a project
        return [
            str(entry)
            for entry in (Path(entry).resolve() for entry in sys.path)
            if any(map(entry.is_relative_to, projects)) and not any(map(entry.is_relative_to, left_out))
        ]

    def python(
        self, folders: Sequence[tuple[Path, Path]], show: Callable[[str], None], one_environment: str = ""
    ) -> Path:
        """The interpreter for the other side. ``folders`` are those of this side and of the other that may have locks.
        ``one_environment`` says why no environment may be made.

        Raises:
            pytest.UsageError: an environment is needed and cannot be made.
        """
        locked = lock_changes(folders, self.installed)
        if locked.required and one_environment:
            raise pytest.UsageError(
                f"the other side's {locked.file} asks for other packages than are installed, and {one_environment}"
            )
        if locked.required:
            show(f"the other side's {locked.file} asks for other packages than are installed")
        is_new = {
            name: requirement
            for name, requirement in self.asked.items()
            if name not in self.installed or not requirement.specifier.contains(self.installed[name].version, True)
        }
        changed = {**locked.required, **self.asked}
        if not locked.required and not is_new:
            return this_python()
        index_options, overrides = project_settings([there for _, there in folders])
        recipe = make_recipe(self.installed, changed, locked.removed, overrides, index_options)
        return environment_python(recipe, show)
