"""The reward ``math_verify``, with the real package."""

from __future__ import annotations

import logging
import multiprocessing

import pytest

from grpo_core.config import DataConfig
from grpo_core.environments.dataset import mathematics
from grpo_core.environments.dataset.reward_function import Answer, load_rewards
from grpo_core.environments.dataset.rewards import Rewards
from grpo_core.errors import ConfigError, MissingPackageError

pytest.importorskip("math_verify", reason="needs the extra math")

RIGHT = [
    ("1/2", "$x = \\frac{1}{2}$"),
    ("\\frac{1}{2}", "so it is 0.5"),
    ("4", "\\boxed{4}"),
    ("1000", "1,000"),
    (4, "4"),
]
WRONG = [("1/2", "0.51"), ("4", "none"), ("4", ""), ("x+1", "$x+2$"), ("4", "\\frac{"), ("", "4")]


def test_answers_are_compared_as_mathematics_in_any_thread() -> None:
    """Reward functions run in threads, where the package refuses its own limits."""
    spec = DataConfig(path="q.jsonl", rewards=("math_verify=2",))
    (function,) = load_rewards(spec, ["prompt", "answer"])
    assert (function.name, function.weight) == ("math_verify", 2.0)
    cases = [*RIGHT, *WRONG]
    found = Rewards([function], 60).score(
        [Answer(number, "?", text, [], {"answer": answer}) for number, (answer, text) in enumerate(cases, 1)]
    )
    assert [one.reward for one in found.answers] == [2.0] * len(RIGHT) + [0.0] * len(WRONG)
    assert mathematics.math_verify([[{"role": "assistant", "content": "it is 4"}]], ["4"]) == [1.0]


@pytest.mark.slow
def test_an_answer_that_keeps_it_busy_earns_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No signal ends this power: the process is ended, and the next answer has a new one."""
    caplog.set_level(logging.INFO, "grpo_core")
    assert mathematics.math_verify(["4"], ["4"]) == [1.0]
    monkeypatch.setattr(mathematics, "MAX_S", 0.5)
    assert mathematics.math_verify(["$10^{10^{9}}+7^{10^{9}}$"], ["4"]) == [0.0]
    assert "no result within 0.5 s for '$10^" in caplog.text
    monkeypatch.undo()
    assert mathematics.math_verify(["4"], ["4"]) == [1.0]
    assert len(multiprocessing.active_children()) == 1


def test_it_needs_a_column_and_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataConfig(path="q.jsonl", rewards=("math_verify",))
    with pytest.raises(ConfigError, match="'math_verify' takes 'answer', which is no column of the task: solution"):
        load_rewards(spec, ["prompt", "solution"])
    monkeypatch.setattr("grpo_core.environments.dataset.mathematics.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-grpo\[math\]'"):
        load_rewards(spec, ["prompt", "answer"])
