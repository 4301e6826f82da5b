"""Runs on a task of the real package, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_core.cli import main
from grpo_core.errors import MissingPackageError

TASK = ["--environment", "reasoning_gym:chain_sum", "--set", "environment.settings.max_terms=2"]
SMALL = ["--device", "cpu", "--groups", "3", "--samples", "2", "--set", "rollout.max_completion_tokens=6"]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))


def samples(run: str, step: int, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["samples", run, "--step", str(step)]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_resumed_run_has_the_questions_of_one_that_was_never_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")
    size = ["--set", "environment.settings.size=7", "--set", "environment.settings.seed=4"]  # an epoch: 7 of 3 a step
    all_steps = ["--set", "telemetry.samples_every_steps=1", "--set", "schedule.max_policy_lag_steps=0"]
    held_out = ["--set", "evaluation.every_steps=2", "--set", "evaluation.num_questions=3"]
    run = ["train", *TASK, *SMALL, *size, *all_steps, *held_out]
    assert main([*run, "--run", "whole", "--steps", "4"]) == 0
    out = capsys.readouterr().out
    assert "evaluation after step 4: greedy reward" in out
    assert main([*run, "--run", "cut", "--steps", "2"]) == 0
    assert main(["train", "--run", "cut", "--resume", "--steps", "4"]) == 0
    for step in (3, 4):
        shown = samples("whole", step, capsys)
        assert shown == samples("cut", step, capsys)
        assert "State the final answer to the following arithmetic problem:" in shown
        assert "(score_answer " in shown


def test_a_misspelled_task_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")
    assert main(["train", "--environment", "reasoning_gym:chain_sumz", "--steps", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'reasoning_gym:chain_sumz': no such task; near it: chain_sum" in line


def test_without_the_package_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo_core.config import EnvironmentConfig
    from grpo_core.environments import make_environment_factory

    monkeypatch.setattr("grpo_core.environments.reasoning_gym.task.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-grpo\[reasoning-gym\]'"):
        make_environment_factory(EnvironmentConfig(name="reasoning_gym:chain_sum"))
