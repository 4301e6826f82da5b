"""The example of questions and rewards of one's own, as its pages run it."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_core.cli import main
from grpo_core.config import build_config
from grpo_core.environments import make_environment_factory
from grpo_core.model.tokenizer import load_tokenizer
from tests.working_folder import working_in

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "examples" / "own_questions"
SHORT = ["--device", "cpu", "--groups", "2", "--samples", "2"]
QUESTIONS = ["--dataset", "questions.jsonl", "--reward", "my_rewards:exact"]


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path) -> Iterator[None]:
    with working_in(EXAMPLE, tmp_path, "my_rewards"):
        yield


def test_it_trains_and_shows_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    rewards = [*QUESTIONS, "--reward", "my_rewards:short=0.1"]
    assert main(["train", *rewards, "--run", "mine", "--steps", "2", *SHORT]) == 0
    assert "step 2: reward" in capsys.readouterr().out
    assert main(["samples", "mine", "--step", "1", "--worst", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("--- step 1, row ") == 3
    assert shown.count("(exact ") == 3
    assert shown.count("\n>>> ") == 3
    assert main(["samples", "mine", "--step", "3"]) == 2
    assert "--step 3: not kept; run 'mine' has 1" in capsys.readouterr().err
    assert main(["samples", "yours"]) == 2
    assert "run 'yours' has no samples in" in capsys.readouterr().err


@pytest.mark.slow
def test_answers_are_rewarded_as_mathematics(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("math_verify", reason="needs the extra math")
    sums = ["train", "--dataset", "questions.jsonl", "--reward", "math_verify", "--run", "sums"]
    assert main([*sums, "--steps", "1", *SHORT]) == 0
    assert main(["samples", "sums", "--step", "1"]) == 0
    assert capsys.readouterr().out.count("(math_verify ") == 4


def test_it_evaluates_while_it_trains_and_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    held_out = ["--set", "evaluation.every_steps=1", "--set", "evaluation.path=held_out.jsonl"]
    assert main(["train", *QUESTIONS, "--run", "watched", "--steps", "2", *held_out, *SHORT]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("evaluation after step ")]
    assert [line.split(":")[0][-1] for line in lines] == ["0", "1", "2"]
    assert main(["evaluate", "watched", "--step", "2"]) == 0
    again = capsys.readouterr().out.splitlines()[0]
    assert again.partition(", 4 questions")[0] == lines[-1].partition(", 4 questions")[0]
    assert main(["evaluate", "watched", "--step", "7"]) == 2
    assert "--step 7: run 'watched' has checkpoints of 1, 2" in capsys.readouterr().err


def test_the_page_shows_the_files_of_the_example() -> None:
    page = (PROJECT / "docs" / "your-data.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(def exact.*?)```", page, flags=re.DOTALL)
    assert shown == (EXAMPLE / "my_rewards.py").read_text(encoding="utf-8")
    rows = re.search(r"```json\n(.*?)```", page, flags=re.DOTALL)
    assert rows is not None
    questions = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8")
    assert all(line in questions for line in rows[1].splitlines())


def test_the_environment_of_the_page_gets_its_settings(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny")
    page = (PROJECT / "docs" / "your-data.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(class Echo.*?)```", page, flags=re.DOTALL)
    (settings,) = re.findall(r"```toml\n(\[environment\]\nname = \"your_game.*?)```", page, flags=re.DOTALL)
    (tmp_path / "game_of_the_page.py").write_text(source)
    sys.path.append(str(tmp_path))
    values = tomllib.loads(settings.replace("your_game", "game_of_the_page"))
    made: Any = make_environment_factory(build_config(values).environment, tokenizer)()
    assert made.words == [word for word in ("army", "fleet") if len(tokenizer.encode(word)) < 4]
