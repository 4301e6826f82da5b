"""A run on an agent of one's own, from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_core.cli import main
from tests.grpo_core.environments.agents.chats import SHORT, chat_model
from tests.working_folder import working_in

GAME = """
from grpo_core import Agent
from tests.grpo_core.environments.agents.chats import guess

game = Agent(guess, tasks=[123])
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "agent_of_tests.py").write_text(GAME)
    with working_in(tmp_path, tmp_path / "home", "agent_of_tests"):
        yield


def test_each_turn_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = chat_model(tmp_path)
    run = ["train", "--environment", "agent_of_tests:game", "--model", model, "--run", "guesses"]
    assert main([*run, *SHORT]) == 0
    assert "step 1: reward 0." in capsys.readouterr().out
    assert main(["samples", "guesses", "--step", "1", "--worst", "6"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("[user]Guess.") == 2 * 3
    assert shown.count("[user]No.") == 2 * 3  # two samples: none before the first turn, then one, then two


def test_a_model_without_a_template_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", "--environment", "agent_of_tests:game", "--model", "tiny", "--run", "guesses"]
    assert main([*run, *SHORT]) == 2
    error = capsys.readouterr().err
    assert "messages need a chat template, and the model's tokenizer has none" in error
    assert "Traceback" not in error
