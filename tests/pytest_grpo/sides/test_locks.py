"""How the locks of two folders differ, and which packages the other side so needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_grpo.sides.locks import LockChanges, lock_changes
from pytest_grpo.sides.packages import Package, parse_packages
from tests.pytest_grpo.repositories import write_files

INSTALLED = {
    name: Package(name, version, is_editable=name == "project")
    for name, version in {"numpy": "2.4.0", "torch": "2.13.0+cpu", "triton": "3.7.1", "project": "0.1"}.items()
}
HASH = " \\\n    --hash=sha256:00 \\\n    --hash=sha256:11"
HERE = f"# Made here\n-e .\nnumpy==2.4.0 ; sys_platform != 'x'{HASH}\ntorch==2.13.0{HASH}\n    # via a\ntriton==3.7.1\n"


def changes(tmp_path: Path, file: str, here: str, there: str) -> LockChanges:
    write_files(tmp_path, {f"here/{file}": here, f"there/{file}": there})
    return lock_changes([(tmp_path / "here", tmp_path / "there")], INSTALLED)


def required(found: LockChanges) -> list[str]:
    return sorted(str(requirement) for requirement in found.required.values())


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (HERE, []),
        (HERE.replace("sha256:00", "sha256:22").replace("# Made here", "# Made there"), []),
        (HERE.replace("numpy==2.4.0", "numpy==2.3.0"), ["numpy==2.3.0"]),
        (HERE.replace("numpy==2.4.0", "NumPy==2.3.0"), ["NumPy==2.3.0"]),
        (HERE + "added==1.0 # a comment\n", ["added==1.0"]),
        (HERE + "added==1.0 ; python_version < '3'\n", []),
        (HERE.replace("numpy==2.4.0", "numpy==2.3.0; sys_platform == 'x'\nnumpy==2.4.0"), []),
        (HERE + "project==0.2\n", []),  # is used from its folder
    ],
)
def test_requirements_of_another_version_are_required(tmp_path: Path, there: str, expected: list[str]) -> None:
    assert required(changes(tmp_path, "requirements.lock", HERE, there)) == expected


def test_what_is_installed_already_is_not_required(tmp_path: Path) -> None:
    """As when the working tree's lock is newer than the environment."""
    here = HERE.replace("2.13.0", "2.14.0").replace("3.7.1", "3.8.0")
    assert required(changes(tmp_path, "requirements.lock", here, HERE)) == []


def test_what_is_installed_on_neither_side_is_not_required(tmp_path: Path) -> None:
    found = changes(tmp_path, "requirements.lock", HERE + "docs-tool==1\n", HERE + "docs-tool==2\n")
    assert required(found) == []


def test_what_the_other_side_locks_no_more_is_removed(tmp_path: Path) -> None:
    found = changes(tmp_path, "requirements.lock", HERE, HERE.replace("triton==3.7.1\n", ""))
    assert (found.removed, required(found)) == (frozenset({"triton"}), [])


def uv_lock(**versions: str) -> str:
    source = '[[package]]\nname = "project"\nversion = "9"\nsource = { editable = "." }\n'
    for name, version in versions.items():
        source += f'[[package]]\nname = "{name}"\nversion = "{version}"\nsource = {{ registry = "x" }}\n'
    return f"version = 1\n{source}"


def test_uv_lock_changes_what_is_installed_and_adds_what_the_project_needs(tmp_path: Path) -> None:
    write_files(tmp_path, {"there/pyproject.toml": "[project]\ndependencies = ['added>=1', 'numpy>=2']\n"})
    there = uv_lock(numpy="2.3.0", torch="2.13.0", of_an_extra="1.0", added="1.0")
    found = changes(tmp_path, "uv.lock", uv_lock(numpy="2.4.0", torch="2.13.0"), there)
    assert (found.file, required(found)) == ("uv.lock", ["added>=1", "numpy==2.3.0"])


def test_of_several_versions_in_uv_lock_the_one_for_this_machine_counts(tmp_path: Path) -> None:
    other = '[[package]]\nname = "numpy"\nversion = "1.0"\nsource = { registry = "x" }\n'
    other += "resolution-markers = [\"sys_platform == 'none'\"]\n"
    assert required(changes(tmp_path, "uv.lock", uv_lock(numpy="2.4.0"), uv_lock(numpy="2.4.0") + other)) == []


def project(*dependencies: str) -> str:
    return f"[project]\nname = 'x'\ndependencies = {list(dependencies)}\n"


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (["numpy>=2", "torch>=2.13"], []),
        (["numpy>=1", "torch>=2.12"], []),
        (["numpy<2.4", "torch>=2.13"], ["numpy<2.4"]),
        (["numpy>=2", "torch==2.13"], []),
        (["numpy>=2", "torch>=2.13", "added"], ["added"]),
        (["numpy>=2", "torch>=2.13", "added; sys_platform == 'none'", "added; extra == 'all'"], []),
        (["numpy>=2", "torch>=2.13", "added @ file:///x"], ["added @ file:///x"]),
    ],
)
def test_without_a_lock_the_dependencies_count(tmp_path: Path, there: list[str], expected: list[str]) -> None:
    found = changes(tmp_path, "pyproject.toml", project("numpy>=2", "torch>=2.13"), project(*there))
    assert (found.file, required(found)) == ("pyproject.toml", expected)


def test_a_dependency_that_is_met_on_neither_side_changes_nothing(tmp_path: Path) -> None:
    assert required(changes(tmp_path, "pyproject.toml", project("missing"), project("missing", "numpy"))) == []


def test_a_lock_that_only_one_side_has_does_not_count(tmp_path: Path) -> None:
    write_files(tmp_path, {"here/requirements.lock": HERE, "there/uv.lock": uv_lock(numpy="1")})
    assert changes(tmp_path, "pyproject.toml", project("numpy"), project("numpy<2")).file == "pyproject.toml"


def test_the_root_comes_before_the_top_of_the_tree(tmp_path: Path) -> None:
    write_files(tmp_path, {"here/a/pyproject.toml": project(), "there/a/pyproject.toml": project("inner")})
    write_files(tmp_path, {"here/pyproject.toml": project(), "there/pyproject.toml": project("outer")})
    here, there = tmp_path / "here", tmp_path / "there"
    assert required(lock_changes([(here / "a", there / "a"), (here, there)], INSTALLED)) == ["inner"]
    assert lock_changes([(here / "b", there / "b")], INSTALLED) == LockChanges()


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("requirements.lock", "numpy = 2\n", "cannot be read: Expected"),
        ("uv.lock", "[[package\n", "cannot be read: Expected"),
        ("pyproject.toml", "[project\n", "cannot be read: Expected"),
        ("pyproject.toml", project("numpy ~ 2"), "cannot be read: Expected"),
    ],
)
def test_a_damaged_lock_is_one_line(tmp_path: Path, file: str, text: str, says: str) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        changes(tmp_path, file, "", text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/there/{file}: {says}")
    assert line.endswith("; correct it, or name another revision")
    assert "\n" not in line


@pytest.mark.parametrize(
    "text", ["torch", "torch>=2", "torch==2.*", "==2", "torch==2,==3", "torch @ file:///x", "a==1;x", ""]
)
def test_a_package_is_asked_for_by_name_and_version(text: str) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        parse_packages([text], INSTALLED)
    assert str(caught.value) == f"--grpo-with {text!r}: must be NAME==VERSION, e.g. torch==2.12"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["torch==2.12", "Torch==2.13"], "--grpo-with 'Torch==2.13': torch is named twice; name one version"),
        (
            ["project==1"],
            "--grpo-with 'project==1': project is used from its folder (an editable install); "
            "compare with a revision or a folder of it instead",
        ),
    ],
)
def test_a_package_is_named_once_and_is_none_from_a_folder(texts: list[str], says: str) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        parse_packages(texts, INSTALLED)
    assert str(caught.value) == says


def test_names_are_normalised() -> None:
    assert list(parse_packages(["PyTest_Benchmark==5", "vllm[audio]==0.31"], INSTALLED)) == ["pytest-benchmark", "vllm"]
