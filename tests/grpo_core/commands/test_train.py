"""What ``grpo train`` shows while it trains."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from grpo_core.cli import main
from grpo_core.commands import train
from grpo_core.commands.command_line import steps
from grpo_core.commands.command_line.options import Given
from grpo_core.commands.command_line.output import lasting
from grpo_core.commands.command_line.steps import show_steps
from grpo_core.config import GrpoConfig
from grpo_core.schedule.reports import StepReport
from grpo_core.training.checkpoint.state import newest_state


def test_a_log_file_gets_one_plain_line_per_step(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    sizes = ["--steps", "2", "--groups", "1", "--samples", "2", "--set", "rollout.max_completion_tokens=4"]
    assert main(["train", "--model", str(model_folder), "--device", "cpu", "--run", "log", *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "learning rate 0.002 (the default for a hidden size of 64)" in lines
    steps = [line for line in lines if line.startswith("step ")]
    assert [re.sub(r"\d+\.?\d*", "#", line) for line in steps] == [
        "step #: reward #, # s, # tokens/s, policy lag #, learning rate #"
    ] * 2
    assert steps[1].startswith("step 2: ")


class Pipe(io.StringIO):
    """Holds back what is written until it is flushed, as a pipe does."""

    arrived = ""

    def flush(self) -> None:
        self.arrived = self.getvalue()


def test_the_line_is_there_when_the_step_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    report = cast(StepReport, object())
    monkeypatch.setattr(steps, "step_line", lambda given: "its line" if given is report else "another")
    pipe = Pipe()
    with show_steps(Console(file=pipe), GrpoConfig()) as show:
        show(report)
        assert pipe.arrived == "its line\n"


def test_an_output_without_a_reader_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as file:
        output = lasting(file)
        for _ in range(3):
            assert output.write("a line\n") == 7
            output.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "nobody reads the output any more; training goes on without it"
    ]


@pytest.mark.slow
def test_a_run_does_not_end_with_its_reader(model_folder: Path, tmp_path: Path) -> None:
    """As ``grpo train ... | head -1``, with a reader that is gone before the first line."""
    sizes = ["--steps", "3", "--groups", "1", "--samples", "2", "--set", "rollout.max_completion_tokens=4"]
    command = [sys.executable, "-m", "grpo_core.cli", "train", "--model", str(model_folder), "--run", "head", *sizes]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = subprocess.run(
            command,
            env={**os.environ, "GRPO_HOME": str(tmp_path)},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert run.returncode == 0
    assert run.stderr.splitlines().count("nobody reads the output any more; training goes on without it") == 1
    assert (tmp_path / "data" / "checkpoints" / "head" / "step-000003").is_dir()


def test_a_run_of_nothing_in_particular_is_the_one_that_learns_soon() -> None:
    def subject(**given: Any) -> tuple[str, str, int]:
        config = train._new_config(Given(given, {}), "run")
        return config.model.name, config.environment.questions, config.schedule.num_steps

    assert subject() == ("adder", "training", 120)
    assert subject(schedule={"num_steps": 5}) == ("adder", "training", 5)
    assert subject(environment={"name": "arithmetic"}) == subject(model={"name": "tiny"}) == ("tiny", "all", 60)


def test_runs_that_start_in_one_second_have_names_of_their_own() -> None:
    first, second = train._new_name("your_game:Echo"), train._new_name("your_game:Echo")
    assert first != second
    assert first.startswith("your_game-Echo-")


@pytest.mark.parametrize("flags", [["--set", "environment.name=no.such:Game"], ["--config", "run.toml"]])
def test_a_run_is_named_after_the_environment_of_the_configuration(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(train, "_new_name", lambda environment: asked.append(environment) or "name")
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('[environment]\nname = "no.such:Game"\n', encoding="utf-8")
    assert main(["train", *flags]) == 2
    assert asked == ["no.such:Game"]


CHATTY = """
from grpo_core.environments.arithmetic import ArithmeticEnvironment

class Chatty(ArithmeticEnvironment):
    def __init__(self, config):
        super().__init__()

    def step(self, actions):
        super().step(actions)
        self._reward = float(len(actions["solver"]))
"""


@pytest.fixture
def chatty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``GRPO_HOME``, and ``own_chatty:Chatty`` as an environment of one's own."""
    (tmp_path / "own_chatty.py").write_text(CHATTY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def own_run(model_folder: Path, num_steps: int) -> list[str]:
    """A run of settings that are no defaults."""
    return [
        "train", "--run", "hint", "--model", str(model_folder), "--device", "cpu", "--environment", "own_chatty:Chatty",
        "--steps", str(num_steps), "--groups", "2", "--samples", "3", "--learning-rate", "1e-4",
        "--set", "training.loss=gspo", "--set", "rollout.max_completion_tokens=4",
    ]  # fmt: skip


def test_a_run_goes_on_with_its_own_configuration(
    chatty_home: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def configured() -> dict[str, Any]:
        state = newest_state(chatty_home / "data/checkpoints/hint")
        assert state is not None
        return state["config"]

    assert main(own_run(model_folder, 2)) == 0
    before = configured()
    capsys.readouterr()
    assert main(["train", "--run", "hint", "--resume", "--steps", "3"]) == 0

    assert "changed since the checkpoint: schedule.num_steps 2 -> 3" in capsys.readouterr().out.splitlines()
    assert configured() == {**before, "schedule": {**before["schedule"], "num_steps": 3}}
    events = [json.loads(line) for line in (chatty_home / "data/events/hint.jsonl").read_text().splitlines()]
    started = [event["environment"] for event in events if event["kind"] == "run_started"]
    assert started == ["own_chatty:Chatty"] * 2
    rollouts = [event["num_completions"] for event in events if event["kind"] == "rollout"]
    assert rollouts == [6] * 3

    assert main(["train", "--run", "hint", "--resume", "--steps", "4", "--environment", "arithmetic"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--environment 'arithmetic': run 'hint' has 'own_chatty:Chatty' and keeps it" in line


def test_a_run_that_has_done_its_steps_says_so(
    chatty_home: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(own_run(model_folder, 2)) == 0
    capsys.readouterr()
    for more in ([], ["--steps", "2"]):
        assert main(["train", "--run", "hint", "--resume", *more]) == 0
        assert capsys.readouterr().out == "run 'hint' has done its 2 steps; more with --steps N\n"
    assert main(["train", "--run", "hint", "--resume", "--steps", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--steps 1: run 'hint' has done 2 steps already, and the setting counts from its start" in line


def test_the_run_of_a_config_file_is_the_run(chatty_home: Path, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('run = "filed"\n')
    arguments = own_run(model_folder, 1)
    del arguments[1:3]
    assert main([*arguments, "--config", str(tmp_path / "run.toml")]) == 0

    assert (chatty_home / "data/checkpoints/filed/step-000001").is_dir()


def test_what_goes_on_is_the_run_in_as_many_processes() -> None:
    assert train._resuming("x", 1) == "grpo train --run x --resume"
    assert train._resuming("x", 2) == "grpo train --run x --resume --processes 2"
