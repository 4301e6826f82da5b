"""The CI workflow runs what this project has: its phases, its Python versions, its commands with options they know."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_grpo.settings.phases import PHASES

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
TOOLS = {"python", "pytest", "ruff", "pyright", "grpo", "mkdocs"}


def workflow() -> dict[str, Any]:
    return yaml.safe_load((PROJECT_FOLDER / ".github/workflows/ci.yml").read_text(encoding="utf-8"))


@cache
def commands() -> tuple[str, ...]:
    """Every ``uv run`` of the workflow and of .ci/run, once, without ``uv run``; any phase is phase 2."""
    steps = [step for job in workflow()["jobs"].values() for step in job["steps"]]
    lines = [line for step in steps for line in step.get("run", "").splitlines()]
    lines += (PROJECT_FOLDER / ".ci/run").read_text(encoding="utf-8").splitlines()
    found = [re.sub(r"\$\{\{ matrix\.phase \}\}", "2", line.partition("uv run ")[2]) for line in lines]
    found = [re.sub(r"^(--(extra|group|with) \S+ )+", "", command.removesuffix("\\").strip()) for command in found]
    return tuple(sorted({command for command in found if command}))


def test_the_benchmarks_run_every_phase():
    matrix = workflow()["jobs"]["benchmarks"]["strategy"]["matrix"]

    assert matrix["phase"] == [phase.number for phase in PHASES]


def test_the_tests_run_on_every_supported_python():
    pyproject = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    versions = [text.rpartition(" ")[2] for text in pyproject["project"]["classifiers"] if ":: 3." in text]

    assert workflow()["jobs"]["tests"]["strategy"]["matrix"]["python"] == versions


def test_modal_runs_only_with_both_credentials():
    job = workflow()["jobs"]["benchmarks"]
    conditions = [step["if"] for step in job["steps"] if "--modal" in step.get("run", "")]

    assert len(conditions) == 1
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        assert job["env"][name] == f"${{{{ secrets.{name} }}}}"
        assert f"env.{name} != ''" in conditions[0]


def test_the_second_system_is_tested_where_it_is_installed():
    places = [(PROJECT_FOLDER / name).read_text(encoding="utf-8") for name in (".ci/run", ".github/workflows/ci.yml")]

    assert all("uv run --extra trl pytest -q tests/pytest_grpo/systems" in text for text in places)
    assert "trl" in tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_the_oldest_modal_that_is_allowed_is_tested():
    extras = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (oldest,) = re.findall(r"^modal>=([\d.]+),<2$", "\n".join(extras["modal"]))
    for name in (".ci/run", ".github/workflows/ci.yml"):
        named = re.findall(r"uv run --with modal==(\S+) pytest", (PROJECT_FOLDER / name).read_text(encoding="utf-8"))
        assert named == [f"{oldest}.0"]


def test_the_site_is_built_from_its_own_group_and_a_warning_is_an_error():
    places = [(PROJECT_FOLDER / name).read_text(encoding="utf-8") for name in (".ci/run", ".github/workflows/ci.yml")]

    assert all("uv run --group docs mkdocs build --strict" in text for text in places)
    assert "docs" in tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text())["dependency-groups"]


def test_ci_runs_the_commands_of_the_readme():
    assert {"pytest -q --slow", "grpo bench -- --grpo-inconclusive xfail"} <= set(commands())


@pytest.mark.parametrize("place", [".ci/run", ".github/workflows/ci.yml"])
def test_ci_runs_every_test_the_slow_ones_too(place: str):
    lines = (PROJECT_FOLDER / place).read_text(encoding="utf-8").splitlines()

    assert [line.partition("uv run ")[2] for line in lines].count("pytest -q --slow") == 1


def test_only_known_tools_are_run():
    assert {command.split()[0] for command in commands()} <= TOOLS


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("pytest ")])
def test_pytest_knows_the_options(tmp_path: Path, command: str):
    (tmp_path / "test_one.py").write_text(
        "import pytest\n@pytest.mark.phase2\ndef test_phase(): ...\n@pytest.mark.vllm\ndef test_it(): ..."
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = vllm")
    (tmp_path / "conftest.py").write_bytes((PROJECT_FOLDER / "conftest.py").read_bytes())
    (tmp_path / "grpo-home").mkdir()
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/thresholds.toml").write_bytes((PROJECT_FOLDER / "bench/thresholds.toml").read_bytes())

    collected = subprocess.run(
        [
            sys.executable,
            "-m",
            *(word for word in shlex.split(command) if "tests/" not in word),
            "--collect-only",
            "-q",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert collected.returncode == 0, collected.stdout + collected.stderr


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("python ")])
def test_the_script_knows_the_options(command: str):
    _, script, *arguments = shlex.split(command)

    shown = subprocess.run(
        [sys.executable, script, "--help"], cwd=PROJECT_FOLDER, capture_output=True, text=True, check=False
    )

    assert shown.returncode == 0, shown.stderr
    missing = [argument for argument in arguments if argument.startswith("--") and argument not in shown.stdout]
    assert missing == []
