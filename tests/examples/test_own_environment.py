"""An environment of one's own: it plays, goes on from a snapshot, and ``grpo train`` takes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_core.cli import main
from grpo_core.config import EnvironmentConfig
from grpo_core.environments import Environment, make_environment_factory

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_environment"


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLE)
    yield
    sys.modules.pop("your_game", None)


@pytest.fixture
def echo() -> Environment:
    return make_environment_factory(EnvironmentConfig(name="your_game:Echo"))()


def test_it_plays(echo: Environment) -> None:
    echo.reset(3)
    state = echo.snapshot()
    (observation,) = echo.observe()
    word = observation.prompt.removeprefix("Say ").removesuffix(":\n")
    echo.step({observation.agent: f"{word}\n"})
    assert echo.done
    assert echo.rewards() == {"speaker": 1.0}
    echo.restore(state)
    echo.step({observation.agent: "navy\n"})
    assert echo.rewards() == {"speaker": 0.0}


def test_it_trains_for_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    flags = ["--environment", "your_game:Echo", "--steps", "2", "--device", "cpu", "--run", "echo"]
    assert main(["train", *flags]) == 0
    steps = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert steps == ["step 1", "step 2"]
    assert (tmp_path / "data" / "checkpoints" / "echo" / "step-000002").is_dir()
