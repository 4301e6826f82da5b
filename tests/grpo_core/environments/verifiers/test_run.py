"""A run on an environment of the real package, from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_core.cli import main
from grpo_core.config import EnvironmentConfig
from grpo_core.environments import make_environment_factory
from grpo_core.errors import MissingPackageError
from tests.grpo_core.environments.agents.chats import SHORT, chat_model
from tests.grpo_core.environments.verifiers import tasksets
from tests.working_folder import working_in


@pytest.fixture
def model(tmp_path: Path) -> Iterator[str]:
    """A model with a chat template, in a working folder with an environment of several turns."""
    (tmp_path / "run_of_tests.py").write_text(tasksets.TURNS)
    with working_in(tmp_path, tmp_path / "home", "run_of_tests"):
        yield chat_model(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the package's own
def test_it_trains_on_the_turns_of_the_package(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("verifiers", reason="needs the extra verifiers")
    run = ["train", "--environment", "verifiers:run_of_tests", "--model", model, "--run", "game"]
    assert main([*run, *SHORT]) == 0
    assert "step 1: reward 0." in capsys.readouterr().out
    assert main(["samples", "game", "--step", "1"]) == 0
    shown = capsys.readouterr().out
    assert "[user]Guess a number up to 9." in shown
    assert "[user]No." in shown


def test_without_the_package_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_core.environments.verifiers.source.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-grpo\[verifiers\]'"):
        make_environment_factory(EnvironmentConfig(name="verifiers:gsm8k"))
