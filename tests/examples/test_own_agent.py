"""examples/own_agent, played with OpenAI's own client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_core.cli import main
from tests.grpo_core.environments.agents.chats import SHORT, chat_model
from tests.working_folder import working_in

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "examples" / "own_agent"


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path) -> Iterator[None]:
    with working_in(EXAMPLE, tmp_path, "my_agent"):
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the client's own
def test_it_trains_on_each_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai", reason="needs the package openai, which the extra verifiers brings")
    run = ["train", "--environment", "my_agent:game", "--model", chat_model(tmp_path), "--run", "game"]
    assert main([*run, *SHORT]) == 0
    assert "step 1: reward 0." in capsys.readouterr().out
    assert main(["samples", "game"]) == 0
    assert "[user]Guess a number from 0 to 9." in capsys.readouterr().out


def test_the_page_shows_the_program() -> None:
    page = (PROJECT / "docs" / "your-data.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(from openai.*?)```", page, flags=re.DOTALL)
    assert (EXAMPLE / "my_agent.py").read_text(encoding="utf-8").endswith(f"\n\n{shown}")
