"""The packages of this process's environment, and those that ``--grpo-with`` asks for instead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package. ``url`` says where it came from when that was no index."""

    name: str
    version: str
    url: str | None = None
    is_editable: bool = False

    @property
    def requirement(self) -> str:
        """What asks for it. An index may lack the build for one machine, such as ``2.13.0+cpu``: another will do."""
        if self.url is not None:
            return f"{self.name} @ {self.url}"
        return f"{self.name}=={Version(self.version).public}" if "+" in self.version else self.name


def installed_packages() -> dict[str, Package]:
    """The packages of this process, by their normalised names. The first of one name on the import path counts."""
    found: dict[str, Package] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            package = _package(canonicalize_name(name), distribution)
            found.setdefault(package.name, package)
    return found


def _package(name: str, distribution: Distribution) -> Package:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    url = origin.get("url")
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    if url and "subdirectory" in origin:
        url += f"#subdirectory={origin['subdirectory']}"
    return Package(name, distribution.version, url, origin.get("dir_info", {}).get("editable", False))


def parse_packages(packages: Sequence[str], installed: Mapping[str, Package]) -> dict[str, Requirement]:
    """What ``--grpo-with`` asks for, by name.

    Raises:
        pytest.UsageError: one is not NAME==VERSION, is named twice, or is no installed package but a folder.
    """
    asked: dict[str, Requirement] = {}
    for text in packages:
        requirement = _exact(text)
        name = canonicalize_name(requirement.name)
        if name in asked:
            raise pytest.UsageError(f"--grpo-with {text!r}: {name} is named twice; name one version")
        if name in installed and installed[name].is_editable:
            raise pytest.UsageError(
                f"--grpo-with {text!r}: {name} is used from its folder (an editable install); "
                "compare with a revision or a folder of it instead"
            )
        asked[name] = requirement
    return asked


def _exact(text: str) -> Requirement:
    problem = f"--grpo-with {text!r}: must be NAME==VERSION, e.g. torch==2.12"
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        raise pytest.UsageError(problem) from None
    specifiers = list(requirement.specifier)
    is_exact = len(specifiers) == 1 and specifiers[0].operator == "==" and not specifiers[0].version.endswith("*")
    if not is_exact or requirement.marker is not None or requirement.url is not None:
        raise pytest.UsageError(problem)
    return requirement
