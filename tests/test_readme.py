"""What the README shows works as it is shown."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from grpo_core.config import EnvironmentConfig
from grpo_core.environments import make_environment_factory

README = Path(__file__).resolve().parent.parent / "README.md"


def python_block_with(text: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    return next(block for block in blocks if text in block)


def test_the_environment_of_the_readme_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "your_game.py").write_text(python_block_with("class Echo"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    environment = make_environment_factory(EnvironmentConfig(name="your_game:Echo"))()
    environment.reset(3)
    state = environment.snapshot()
    (observation,) = environment.observe()
    word = observation.prompt.removeprefix("Say ").removesuffix(":\n")
    environment.step({observation.agent: f"{word}\n"})
    assert environment.done
    assert environment.rewards() == {"speaker": 1.0}
    environment.restore(state)
    environment.step({observation.agent: "navy\n"})
    assert environment.rewards() == {"speaker": 0.0}
    sys.modules.pop("your_game")


def test_the_commands_of_the_readme_parse() -> None:
    from grpo_core.cli import _parser

    lines = re.findall(r"\$ uv run grpo ([^\n#]*)", README.read_text(encoding="utf-8"))
    assert len(lines) >= 6
    for line in lines:
        arguments = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
        _parser().parse_args(arguments)


def test_the_test_of_the_readme_measures_and_fails_as_shown(pytester: pytest.Pytester) -> None:
    arms = "".join(
        f"def {name}(): return {{'tokens': {tokens}, 'seconds': 1.0}}\n"
        for name, tokens in (("run_batched", 98), ("run_one_by_one", 100))
    )
    pytester.makepyfile(test_own=f"{python_block_with('def test_batches_pay')}\n{arms}")
    result = pytester.runpytest("--phase", "2", "-o", "grpo_control=false")
    result.assert_outcomes(failed=1)
    shown = re.search(r"```console\n(E   assert batched.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert shown is not None
    printed = {_without_numbers(line) for line in result.outlines}
    assert {_without_numbers(line) for line in shown[1].splitlines()} <= printed


def _without_numbers(line: str) -> str:
    return re.sub(r"\s*[\d.]+|\s+", " ", line)
