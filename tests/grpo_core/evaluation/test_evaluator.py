"""What an evaluation plays, and questions that do not go with the run."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_core.config import build_config
from grpo_core.errors import ConfigError
from grpo_core.evaluation.evaluator import held_out_environment

DATASET = {"environment": {"data": {"path": "questions.jsonl", "rewards": ["a:b"], "as_chat": True}}}
GAME = {"environment": {"name": "my_game:Game", "settings": {"words": 3}, "use_state_cache": True}}


def played(values: dict[str, Any], **evaluation: object) -> Any:
    return held_out_environment(build_config({**values, "evaluation": {"every_steps": 5, **evaluation}}))


def test_held_out_questions_have_the_settings_and_rewards_of_the_others() -> None:
    data = played(DATASET, path="held_out.jsonl").data
    assert (data.path, data.rewards, data.as_chat, data.shuffle) == ("held_out.jsonl", ("a:b",), True, False)


def test_without_questions_the_runs_environment_is_played_or_another_one() -> None:
    own = played(GAME)
    assert (own.name, own.settings, own.use_state_cache) == ("my_game:Game", {"words": 3}, False)
    assert played({"environment": {"questions": "training"}}).questions == "held_out"
    assert played(GAME, environment="my_game:Hard").name == "my_game:Hard"
    assert played(DATASET, environment="arithmetic").name == "arithmetic"


def test_a_task_of_reasoning_gym_is_evaluated_on_other_questions() -> None:
    values = {"name": "reasoning_gym:gcd", "settings": {"size": 9}, "data": {"as_chat": True, "rewards": ["a:b"]}}
    own = played({"environment": values})
    assert (own.name, own.questions, own.settings, own.data.as_chat) == (
        "reasoning_gym:gcd",
        "held_out",
        {"size": 9},
        True,
    )
    other = played({"environment": values}, environment="reasoning_gym:lcm")
    assert (other.name, other.questions, other.data.rewards) == ("reasoning_gym:lcm", "held_out", ("a:b",))
    foreign = played(DATASET, environment="reasoning_gym:lcm")
    assert (foreign.data.path, foreign.data.rewards, foreign.data.as_chat) == (None, (), True)


@pytest.mark.parametrize(
    ("values", "evaluation", "line"),
    [
        (DATASET, {}, "evaluation needs held-out questions: set evaluation.path"),
        (GAME, {"path": "q.jsonl"}, "evaluation.path does not go with environment.name 'my_game:Game'"),
        (
            GAME,
            {"path": "q.jsonl", "environment": "arithmetic"},
            "evaluation.environment does not go with evaluation.path",
        ),
        (GAME, {"environment": "dataset"}, "name the held-out questions in evaluation.path"),
    ],
)
def test_what_does_not_go_together_is_one_line(values: dict[str, Any], evaluation: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        played(values, **evaluation)
