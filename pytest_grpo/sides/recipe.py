"""What an environment is made of: the installed packages, but for those that must differ."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pytest_grpo.sides.packages import Package

_NEEDED_BY_PLUGIN = ("pytest", "pytest-benchmark", "psutil", "filelock", "numpy", "nvidia-ml-py")
_MAX_SHOWN = 6
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an environment is made of."""

    changed: tuple[str, ...]
    """What differs from the installed packages: ``torch==2.12``. It is among ``required``."""
    required: tuple[str, ...]
    """Requirements, one a line."""
    preferred: tuple[str, ...]
    """``name==version`` of what is installed here: taken where the requirements allow it."""
    overrides: tuple[str, ...] = ()
    """Requirements that hold whatever other packages say."""
    index_options: tuple[str, ...] = ()
    """Where uv finds packages."""

    @property
    def what(self) -> str:
        """How it differs, for people."""
        return shown(self.changed)

    @property
    def key(self) -> str:
        """A key of the content, the Python and the platform."""
        python = (sys.version, os.path.realpath(sys.executable), sysconfig.get_platform())
        content = [_FORMAT, self.required, self.preferred, self.overrides, self.index_options, python]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def other_changes(self, resolved: Sequence[str]) -> list[str]:
        """What changed in ``resolved`` along with what should: ``triton 3.7.1 -> 3.7.0``."""
        before = dict(line.split("==") for line in self.preferred)
        after = dict(line.split("==") for line in resolved if "==" in line)
        asked = {canonicalize_name(Requirement(line).name) for line in self.changed}
        changed = sorted(name for name in after if before.get(name) != after[name])
        return [f"{name} {before.get(name, 'none')} -> {after[name]}" for name in changed if name not in asked]


def make_recipe(
    installed: Mapping[str, Package],
    changed: Mapping[str, Requirement],
    removed: frozenset[str] = frozenset(),
    overrides: Sequence[str] = (),
    index_options: Sequence[str] = (),
) -> Recipe:
    """The installed packages without the editable ones and those ``removed``; ``changed`` takes the place of theirs."""
    kept = {name: package for name, package in installed.items() if not package.is_editable}
    required = {name: package.requirement for name, package in kept.items() if name not in removed}
    required |= {name: str(requirement) for name, requirement in changed.items()}
    overridden = {canonicalize_name(Requirement(line).name): line for line in overrides}
    overridden |= {name: str(changed[name]) for name in overridden if name in changed}
    return Recipe(
        changed=tuple(str(requirement) for requirement in changed.values()),
        required=(*sorted(required.values()), *_needs_of_plugin()),
        preferred=tuple(sorted(f"{name}=={package.version}" for name, package in kept.items() if not package.url)),
        overrides=tuple(overridden.values()),
        index_options=tuple(index_options),
    )


def shown(texts: Sequence[str]) -> str:
    """The first of ``texts``, and how many more there are."""
    more = len(texts) - _MAX_SHOWN
    return ", ".join(texts[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _needs_of_plugin() -> list[str]:
    """As its own metadata has them, so that uv refuses a version that it cannot run with."""
    try:
        wanted = [Requirement(line) for line in requires("pytest-grpo") or []]
    except PackageNotFoundError:  # used from a folder
        return list(_NEEDED_BY_PLUGIN)
    return [str(requirement) for requirement in wanted if requirement.name in _NEEDED_BY_PLUGIN]
