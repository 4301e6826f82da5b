"""requirements.lock without a network: its form, and that it fits pyproject.toml. CI resolves it anew and compares."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

PROJECT_FOLDER = Path(__file__).resolve().parent.parent


def locked_blocks() -> list[str]:
    """One text per package: its requirement and hashes."""
    text = (PROJECT_FOLDER / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("\\\n    ", "").splitlines()


def test_every_package_is_pinned_and_hashed_and_names_no_host():
    block = re.compile(r"[a-z0-9.-]+==\S+ ; [^:@]+(?: --hash=sha256:[0-9a-f]{64})+")

    assert [text for text in locked_blocks() if not block.fullmatch(text)] == []


def expanded(texts: Iterable[str], extras: Mapping[str, Sequence[str]]) -> Iterator[Requirement]:
    """The requirements of ``texts``, with those of an extra in the place of ``pytest-grpo[extra]``."""
    for requirement in map(Requirement, texts):
        if requirement.name == "pytest-grpo":
            for extra in requirement.extras:
                yield from expanded(extras[extra], extras)
        else:
            yield requirement


def test_other_peoples_packages_have_ranges_and_no_exact_pins():
    project = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())

    assert [text for text in texts if "==" in text.partition(";")[0]] == []


def test_every_dependency_is_locked_within_its_bounds():
    pyproject = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    locked: dict[str, list[str]] = {}
    for text in locked_blocks():
        name, _, version = text.split()[0].partition("==")
        locked.setdefault(name, []).append(version)

    groups = pyproject["dependency-groups"].values()
    extras = pyproject["project"]["optional-dependencies"]
    wanted = list(expanded(itertools.chain(pyproject["project"]["dependencies"], *groups), extras))
    assert len(wanted) > 20
    for requirement in wanted:
        versions = locked.get(requirement.name, [])
        assert versions, f"{requirement} is not in requirements.lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: {versions}"
