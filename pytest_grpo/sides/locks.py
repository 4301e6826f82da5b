"""What the other side's own lock file says otherwise than this side's: which packages it needs instead."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pytest_grpo.sides.packages import Package

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class LockChanges:
    """How the other side's packages must differ from those that are installed here."""

    file: str = ""
    """The lock file that says so."""
    required: Mapping[str, Requirement] = field(default_factory=dict)
    """Packages with another version than the installed one, or that are not installed here."""
    removed: frozenset[str] = frozenset()
    """Packages that the other side does not lock any more. They may stay."""


def lock_changes(pairs: Iterable[tuple[Path, Path]], installed: Mapping[str, Package]) -> LockChanges:
    """What differs between the locks of the first of ``pairs``, (folder here, folder there), that has both.

    A lock is requirements.lock, uv.lock or, where neither is in both folders, the dependencies in pyproject.toml.

    Raises:
        pytest.UsageError: one cannot be read.
    """
    folders = list(pairs)
    for file, read in (("requirements.lock", _pins_of_requirements), ("uv.lock", _pins_of_uv)):
        for here, there in folders:
            if (here / file).is_file() and (there / file).is_file():
                before, after = _read(here / file, read), _read(there / file, read)
                changes = _changed_pins(before, after, installed)
                if file == "uv.lock":  # it locks every extra: only what the project itself needs is added
                    changes = {name: pin for name, pin in changes.items() if name in installed}
                    changes = _unmet(there, installed, only_missing=True) | changes
                return LockChanges(file, changes, frozenset(before.keys() - after.keys()))
    for here, there in folders:
        if (here / "pyproject.toml").is_file() and (there / "pyproject.toml").is_file():
            return LockChanges("pyproject.toml", _unmet(there, installed, _dependencies(here)))
    return LockChanges()


def _changed_pins(
    before: Mapping[str, Requirement], after: Mapping[str, Requirement], installed: Mapping[str, Package]
) -> dict[str, Requirement]:
    return {
        name: pin
        for name, pin in after.items()
        if (str(before[name]) != str(pin) and name in installed if name in before else True)
        if not _is_met(pin, installed)
    }


def _unmet(
    folder: Path,
    installed: Mapping[str, Package],
    known: Iterable[Requirement] = (),
    only_missing: bool = False,
) -> dict[str, Requirement]:
    """Dependencies of the project in ``folder`` that the installed packages do not meet, but for those ``known``."""
    left_out = {str(requirement) for requirement in known}
    wanted = [requirement for requirement in _dependencies(folder) if str(requirement) not in left_out]
    return {
        name: requirement
        for requirement in wanted
        if not _is_met(requirement, installed)
        if (name := canonicalize_name(requirement.name)) not in installed or not only_missing
    }


def _is_met(requirement: Requirement, installed: Mapping[str, Package]) -> bool:
    package = installed.get(canonicalize_name(requirement.name))
    if package is None or requirement.url is not None:
        return package is not None and package.url == requirement.url
    return package.is_editable or requirement.specifier.contains(package.version, prereleases=True)


def _dependencies(folder: Path) -> list[Requirement]:
    """The dependencies of the project in ``folder`` on this machine; empty without a pyproject.toml."""
    path = folder / "pyproject.toml"
    return list(_read(path, _dependencies_of_project)) if path.is_file() else []


def _dependencies_of_project(text: str) -> list[Requirement]:
    return list(_applying(tomllib.loads(text).get("project", {}).get("dependencies", [])))


def _pins_of_requirements(text: str) -> dict[str, Requirement]:
    """``name==version ; marker \\`` and lines of hashes, as pip and uv write them."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    bare = (re.split(r"\s(?:#|--)", line)[0].strip() for line in lines)
    wanted = _applying(line for line in bare if line and not line.startswith(("#", "-")))
    return {canonicalize_name(requirement.name): requirement for requirement in wanted}


def _pins_of_uv(text: str) -> dict[str, Requirement]:
    pins = {}
    for package in tomllib.loads(text).get("package", []):
        if "registry" in package.get("source", {}) and "version" in package and _applies(package):
            pins[canonicalize_name(package["name"])] = Requirement(f"{package['name']}=={package['version']}")
    return pins


def _applies(package: Mapping[str, Any]) -> bool:
    markers = package.get("resolution-markers", [])
    return not markers or any(Marker(marker).evaluate({"extra": ""}) for marker in markers)


def _applying(lines: Iterable[str]) -> Iterator[Requirement]:
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            yield requirement


def _read(path: Path, parse: Callable[[str], Content]) -> Content:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, InvalidRequirement) as error:
        reason = str(error).splitlines()[0]
        raise pytest.UsageError(f"{path}: cannot be read: {reason}; correct it, or name another revision") from error
