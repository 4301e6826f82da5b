"""Environments: what they hold, and that a cache of them is whole, shared and not for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pytest_grpo.sides.environments import MAX_UNUSED_DAYS, environment_python
from pytest_grpo.sides.packages import Package, installed_packages
from pytest_grpo.sides.recipe import Recipe, make_recipe
from tests.pytest_grpo.sides.conftest import FakeUv

INSTALLED = {name: Package(name, version) for name, version in {"iniconfig": "2.3.1", "pytest": "9.0.0"}.items()}
MAKES = """
import sys
from packaging.requirements import Requirement
from pytest_grpo.sides.environments import environment_python
from pytest_grpo.sides.packages import Package
from pytest_grpo.sides.recipe import make_recipe

installed = {"iniconfig": Package("iniconfig", "2.3.1"), "pytest": Package("pytest", "9.0.0")}
recipe = make_recipe(installed, {"iniconfig": Requirement("iniconfig==2.0.0")})
print("begins", flush=True)
environment_python(recipe, lambda line: print(line, flush=True))
"""


def recipe_of(*texts: str) -> Recipe:
    return make_recipe(INSTALLED, {requirement.name: requirement for requirement in map(Requirement, texts)})


def refusal(recipe: Recipe) -> str:
    with pytest.raises(pytest.UsageError) as caught:
        environment_python(recipe, lambda line: None)
    line = str(caught.value)
    assert "\n" not in line
    return line


def entries(cache: Path) -> list[str]:
    """What is in the cache, but for locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_the_named_packages_replace_the_installed_ones() -> None:
    installed = {
        "torch": Package("torch", "2.13.0+cpu"),
        "iniconfig": Package("iniconfig", "2.3.1"),
        "triton": Package("triton", "3.7.1"),
        "mine": Package("mine", "1.0", is_editable=True),
        "other": Package("other", "1.0", url="git+https://example.org/other@abc"),
    }
    changed = {"iniconfig": Requirement("iniconfig==2.0.0"), "added": Requirement("added==1")}
    recipe = make_recipe(
        installed, changed, frozenset({"triton"}), ["torch==2.13.0", "iniconfig>2"], ["--index=file:///x"]
    )
    own = {"added==1", "iniconfig==2.0.0", "other @ git+https://example.org/other@abc", "torch==2.13.0"}
    assert own <= set(recipe.required)
    assert {Requirement(line).name for line in set(recipe.required) - own} == {
        *("filelock", "numpy", "nvidia-ml-py", "psutil", "pytest", "pytest-benchmark")  # the plugin's
    }
    assert recipe.preferred == ("iniconfig==2.3.1", "torch==2.13.0+cpu", "triton==3.7.1")
    assert recipe.overrides == ("torch==2.13.0", "iniconfig==2.0.0")
    assert recipe.what == "iniconfig==2.0.0, added==1"


def test_the_key_is_of_the_content() -> None:
    keys = {recipe_of("iniconfig==2.0.0").key, recipe_of("iniconfig==2.1.0").key, recipe_of("numpy==2.0").key}
    assert len(keys) == 3
    assert recipe_of("iniconfig==2.0.0").key in keys
    changed = {"iniconfig": Requirement("iniconfig==2.0.0")}
    others = [
        make_recipe(INSTALLED | {"pluggy": Package("pluggy", "1.6.0")}, changed),
        make_recipe(INSTALLED, changed, index_options=["--find-links=x"]),
        make_recipe(INSTALLED, changed, overrides=["numpy==2"]),
    ]
    assert len(keys | {other.key for other in others}) == 6


def test_it_is_made_once_and_said_so(fake_uv: FakeUv, cache: Path) -> None:
    fake_uv.resolved.write_text("iniconfig==2.0.0\npytest==8.4.0\nnew==1.0\n")
    lines: list[str] = []
    python = environment_python(recipe_of("iniconfig==2.0.0"), lines.append)
    also = "iniconfig==2.0.0 also changes new none -> 1.0, pytest 9.0.0 -> 8.4.0"
    assert lines == ["making an environment with iniconfig==2.0.0 (once)", also]
    lines.clear()
    assert environment_python(recipe_of("iniconfig==2.0.0"), lines.append) == python
    assert lines == [also]
    assert fake_uv.num_installs == 1
    assert entries(cache) == [python.relative_to(cache).parts[0]]


def test_what_a_killed_creation_left_is_not_used(fake_uv: FakeUv, cache: Path) -> None:
    recipe = recipe_of("iniconfig==2.0.0")
    left = [cache / recipe.key, cache / "0123"]
    for folder in left:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()
    environment_python(recipe, lambda line: None)
    assert fake_uv.num_installs == 1
    assert entries(cache) == [recipe.key]


def test_an_environment_without_its_python_is_made_anew(fake_uv: FakeUv) -> None:
    recipe = recipe_of("iniconfig==2.0.0")
    environment_python(recipe, lambda line: None).unlink()
    environment_python(recipe, lambda line: None)
    assert fake_uv.num_installs == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_creation_is_not_taken_for_a_whole_one(
    fake_uv: FakeUv, cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    installs = tmp_path / "installs"
    fake_uv.then(f"touch {installs}; exec sleep 30")
    with subprocess.Popen([sys.executable, "-c", MAKES], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while not installs.exists():
            assert process.poll() is None
            time.sleep(0.01)
        (left,) = cache.glob("*/*")
        process.send_signal(number)
        assert process.wait(20) != 0
    assert entries(cache) == ([recipe_of("iniconfig==2.0.0").key] if number == signal.SIGKILL else [])
    fake_uv.then("true")
    lines: list[str] = []
    python = environment_python(recipe_of("iniconfig==2.0.0"), lines.append)
    assert lines == ["making an environment with iniconfig==2.0.0 (once)"]
    assert len(entries(cache)) == 1
    assert not python.is_relative_to(left)  # where the killed session's uv may still be at work


def test_two_sessions_at_once_make_one(fake_uv: FakeUv, cache: Path, tmp_path: Path) -> None:
    installs, goes_on = tmp_path / "installs", tmp_path / "goes-on"
    fake_uv.then(f"touch {installs}; while [ ! -e {goes_on} ]; do sleep 0.05; done")
    first, second = (
        subprocess.Popen([sys.executable, "-c", MAKES], stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    with first, second:
        said = [[process.stdout.readline(), process.stdout.readline()] for process in (first, second) if process.stdout]
        assert sorted(lines[1] for lines in said) == [
            "making an environment with iniconfig==2.0.0 (once)\n",
            "waiting for another session, which uses or makes the environment with iniconfig==2.0.0\n",
        ]
        goes_on.touch()
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert fake_uv.num_installs == 1


def test_what_is_not_used_any_more_is_removed_and_what_is_used_stays(fake_uv: FakeUv, cache: Path) -> None:
    old, used, current = (environment_python(recipe_of(f"iniconfig=={v}"), print) for v in ("1.0", "1.1", "2.0"))
    now, day_s = time.time(), 86400
    for python, age_days in ((old, MAX_UNUSED_DAYS + 1), (used, MAX_UNUSED_DAYS - 1), (current, MAX_UNUSED_DAYS + 1)):
        os.utime(python.parents[2] / "environment.json", (0, now - age_days * day_s))
    environment_python(recipe_of("iniconfig==2.0"), print)
    assert [python.exists() for python in (old, used, current)] == [False, True, True]
    assert len(list(cache.glob("*.lock"))) == 2
    environment_python(recipe_of("iniconfig==1.1"), print)
    assert current.exists()  # its use counts


def test_a_failure_of_uv_is_one_line_and_leaves_nothing(fake_uv: FakeUv, cache: Path) -> None:
    drawn = "\\342\\225\\260\\342\\224\\200"
    said = f"error: No solution found\\n  {drawn} Because there is no version\\n      of x==1\\n\\nhint: try"
    fake_uv.then(f"printf '{said}' >&2; exit 1")
    assert refusal(recipe_of("iniconfig==2.0.0")) == (
        "an environment with iniconfig==2.0.0: No solution found Because there is no version of x==1"
    )
    assert entries(cache) == []


def test_an_environment_that_the_plugin_cannot_run_in_is_refused(fake_uv: FakeUv, cache: Path) -> None:
    broken = """printf '#!/bin/sh\\necho ImportError: no numpy >&2\\nexit 1\\n' > "$(dirname "$6")/python" """
    fake_uv.then(broken)
    assert refusal(recipe_of("iniconfig==2.0.0")) == (
        "an environment with iniconfig==2.0.0: pytest-grpo cannot run in it: ImportError: no numpy"
    )
    assert entries(cache) == []


def test_without_uv_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal(recipe_of("iniconfig==2.0.0")) == (
        "an environment with iniconfig==2.0.0: uv, which makes environments, is not installed; pip install uv"
    )


def test_a_cache_that_cannot_be_written_is_one_line(
    fake_uv: FakeUv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path / "file"))
    assert refusal(recipe_of("iniconfig==2.0.0")).startswith("an environment with iniconfig==2.0.0: cannot write")


@pytest.mark.slow
@pytest.mark.usefixtures("real_uv")
def test_uv_makes_what_was_asked_for(cache: Path) -> None:
    own = installed_packages()
    kept = {name: own[name] for name in ("iniconfig", "pytest", "pluggy", "numpy", "psutil", "filelock")}
    lines: list[str] = []
    recipe = make_recipe(kept, {"iniconfig": Requirement("iniconfig==2.0.0")})
    python = environment_python(recipe, lines.append)
    program = (
        "import json, sys, importlib.metadata as m\n"
        f"print(json.dumps([sys.version, sys.prefix, *map(m.version, {sorted(kept)})]))"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    version, prefix, *versions = json.loads(done.stdout)
    assert (version, Path(prefix)) == (sys.version, python.parent.parent)
    assert dict(zip(sorted(kept), versions, strict=True)) == {
        name: "2.0.0" if name == "iniconfig" else package.version for name, package in kept.items()
    }
    assert lines[0] == "making an environment with iniconfig==2.0.0 (once)"


@pytest.mark.usefixtures("real_uv", "cache")
def test_a_version_that_is_not_there_is_named() -> None:
    line = refusal(recipe_of("iniconfig==99"))
    assert line.startswith("an environment with iniconfig==99: ")
    assert "there is no version of iniconfig==99" in line


@pytest.mark.usefixtures("real_uv", "cache")
def test_a_pytest_that_the_plugin_cannot_run_with_is_named() -> None:
    assert "pytest>=8.4" in refusal(recipe_of("pytest==7.4.0"))


@pytest.mark.usefixtures("real_uv", "cache")
def test_without_a_network_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    line = refusal(recipe_of("iniconfig==2.0.0"))
    assert line.startswith("an environment with iniconfig==2.0.0: ")
    assert "not found in the cache" in line
