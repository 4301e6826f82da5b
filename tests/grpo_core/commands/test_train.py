"""What ``grpo train`` shows while it trains."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from grpo_core.cli import main
from grpo_core.commands import train
from grpo_core.config import GrpoConfig
from grpo_core.schedule.loop import StepReport


def test_a_log_file_gets_one_plain_line_per_step(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    sizes = ["--steps", "2", "--groups", "1", "--samples", "2", "--set", "rollout.max_completion_tokens=4"]
    assert main(["train", "--model", str(model_folder), "--device", "cpu", "--run", "log", *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert [re.sub(r"\d+\.?\d*", "#", line) for line in steps] == [
        "step #: reward #, # s, # tokens/s, policy lag #"
    ] * 2
    assert steps[1].startswith("step 2: ")


class Pipe(io.StringIO):
    """Holds back what is written until it is flushed, as a pipe does."""

    arrived = ""

    def flush(self) -> None:
        self.arrived = self.getvalue()


def test_the_line_is_there_when_the_step_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    report = cast(StepReport, object())
    monkeypatch.setattr(train, "step_line", lambda given: "its line" if given is report else "another")
    pipe = Pipe()
    with train._progress(Console(file=pipe), GrpoConfig()) as show:
        show(report)
        assert pipe.arrived == "its line\n"


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
