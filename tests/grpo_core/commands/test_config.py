"""``grpo config``: every value with its origin, and TOML that makes the same configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from grpo_core.cli import main
from grpo_core.config import build_config


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_every_value_has_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.toml").write_text(
        '[training]\nloss = "sapo"\nclip_low = 0.1\n[environment.settings]\nwords = ["a", "b"]\n'
    )
    given = ["--set", "training.loss=grpo", "--set", "environment.name=my_game:Game"]
    assert main(["config", "--config", "run.toml", *given, "--seed", "3"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        'loss = "grpo" # --set',
        "clip_low = 0.1 # run.toml",
        "seed = 3 # --seed",
        "num_steps = 60 # grpo train",
        "# clip_dual is not set # default",
        'words = ["a", "b"] # run.toml',
        "group_size = 8 # default",
    ):
        assert line in lines


def test_what_it_prints_makes_the_same_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", "q.jsonl", "--reward", "a:b", "--reward", "a:c=2", "--steps", "7"]
    variant = ["--set", "bench.variants={slow = {rollout = {num_groups = 2}}}"]
    assert main(["config", *flags, *variant]) == 0
    printed = capsys.readouterr().out
    assert build_config(tomllib.loads(printed)) == build_config(
        {
            "environment": {"data": {"path": "q.jsonl", "rewards": ["a:b", "a:c=2"]}},
            "schedule": {"num_steps": 7},
            "bench": {"variants": {"slow": {"rollout": {"num_groups": 2}}}},
        }
    )
    assert any(line.split()[:3] == ["name", "=", '"dataset"'] and "--dataset" in line for line in printed.splitlines())


def test_a_name_that_is_given_is_printed_with_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text('run = "mine"\n')
    assert main(["config", "--config", str(tmp_path / "run.toml")]) == 0
    assert tomllib.loads(capsys.readouterr().out)["run"] == "mine"


def test_two_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).touch()
    with pytest.raises(SystemExit, match="2"):
        main(["config", "--config", str(tmp_path / "a.toml"), "--config", str(tmp_path / "b.toml")])
    assert "--config is given already; put all settings into one file" in capsys.readouterr().err


def test_a_run_without_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "nobody"]) == 2
    assert "run 'nobody' has no checkpoint; runs with one: none" in capsys.readouterr().err
