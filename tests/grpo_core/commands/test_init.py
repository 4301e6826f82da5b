"""``grpo init`` writes files that work, and never over one that exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from grpo_core.cli import main
from grpo_core.commands.init import RUN, TEST, THRESHOLDS, WORKFLOW, starter_files
from pytest_grpo.settings.phases import PHASES
from pytest_grpo.settings.thresholds import load_thresholds

PROJECT_FOLDER = Path(__file__).resolve().parents[3]
PATHS = [RUN, TEST, THRESHOLDS, WORKFLOW]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    capsys.readouterr()
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_it_says_what_it_wrote_and_what_to_type_next(started: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert files(started) == sorted(PATHS)
    assert main(["init", "a project"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^wrote (\S+) ", shown, re.MULTILINE) == PATHS
    _, _, steps = shown.partition("\nnext:\n")
    assert steps.split("\n  ") == [
        "  cd 'a project'",
        f"pytest {TEST}",
        f"grpo train --config {RUN}",
        "grpo bench --phase 3\n",
    ]
    assert files(started / "a project") == sorted(PATHS)


def test_they_are_for_everybody_to_read(started: Path) -> None:
    assert {(started / path).stat().st_mode & 0o777 for path in PATHS} == {0o644}


def test_what_exists_is_named_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / RUN).write_text("mine")
    (tmp_path / "tests").mkdir()
    (tmp_path / TEST).symlink_to("nowhere")
    assert main(["init", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^(\w+) +(\S+)", shown, re.MULTILINE)[:4] == [
        ("left", RUN),
        ("left", TEST),
        ("wrote", THRESHOLDS),
        ("wrote", WORKFLOW),
    ]
    assert (tmp_path / RUN).read_text() == "mine"
    assert os.readlink(tmp_path / TEST) == "nowhere"


@pytest.mark.parametrize("name", ["file", "file/inner"])
def test_a_folder_that_is_none_is_one_line_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["init", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == (
        f"grpo: error: {tmp_path / 'file'} is not a folder; name another one, or move it away\n"
    )
    assert files(tmp_path) == ["file"]


def test_nothing_is_written_when_one_file_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".github").touch()
    assert main(["init", str(tmp_path)]) == 2
    assert ".github is not a folder" in capsys.readouterr().err
    assert files(tmp_path) == [".github"]


def test_the_settings_are_the_defaults_of_the_command(started: Path) -> None:
    from grpo_core.config import build_config, read_config

    values = read_config(started / RUN)
    config = build_config(values).model_dump()
    default = build_config({"schedule": {"num_steps": 60}}).model_dump()
    for section, keys in values.items():
        for key, value in keys.items():
            expected = 2e-3 if key == "learning_rate" else default[section][key]  # not set: 2e-3 for an adapter
            assert (config[section][key], value) == (expected, expected), f"{section}.{key}"


def test_the_thresholds_are_those_of_the_package(started: Path) -> None:
    for profile in ("cpu", "gpu"):
        copied = load_thresholds(started / THRESHOLDS, profile)
        assert copied == load_thresholds(PROJECT_FOLDER / THRESHOLDS, profile)


@pytest.mark.slow
def test_the_test_is_formatted_and_passes(started: Path) -> None:
    for check in (["check", "--isolated", "--select", "E,F,I,B,UP,SIM,RUF,PT"], ["format", "--isolated", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *check, TEST], cwd=started, check=True, capture_output=True)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", TEST, "-q", "-o", "grpo_control=false", "-o", "grpo_max_cores_of_others=inf"],
        cwd=started,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "1 pass, 0 fail, 0 inconclusive" in ended.stdout


@pytest.mark.slow
def test_the_settings_train(started: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    ended = subprocess.run(
        [sys.executable, "-m", "grpo_core.cli", "train", "--config", RUN, "--steps", "1", "--groups", "2"],
        cwd=started,
        env=os.environ | {"GRPO_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "1 steps in " in ended.stdout


def commands(started: Path, job: str) -> list[list[str]]:
    """The command lines of a job of the workflow, for phase 6."""
    steps = yaml.safe_load((started / WORKFLOW).read_text())["jobs"][job]["steps"]
    lines = [step["run"].replace("${{ matrix.phase }}", "6") for step in steps if "run" in step]
    return [shlex.split(line) for line in lines]


def test_the_workflow_runs_every_phase(started: Path) -> None:
    workflow = yaml.safe_load((started / WORKFLOW).read_text())
    assert workflow["jobs"]["phases"]["strategy"]["matrix"]["phase"] == [phase.number for phase in PHASES]
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflow_installs_extras_that_exist(started: Path) -> None:
    extras = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = [words for job in ("tests", "phases") for words in commands(started, job) if words[0] == "pip"]
    assert installs == [["pip", "install", "pytest-grpo"], ["pip", "install", "pytest-grpo[bench]"]]
    assert "bench" in extras


@pytest.mark.slow
@pytest.mark.parametrize("job", ["tests", "phases"])
def test_the_workflows_commands_collect_what_they_should(started: Path, job: str) -> None:
    (program, *arguments) = commands(started, job)[-1]
    module = {"pytest": "pytest", "grpo": "grpo_core.cli"}[program]
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--co", "-q"],
        cwd=started,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len([line for line in ended.stdout.splitlines() if "::" in line]) == 1


def test_each_file_is_named_once() -> None:
    assert [file.path for file in starter_files()] == PATHS
