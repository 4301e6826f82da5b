from __future__ import annotations

import json

import pytest

from grpo_core.environments.arithmetic import AGENT, ArithmeticEnvironment, answer, is_held_out, question
from grpo_core.errors import InvalidActionError
from grpo_core.types import Questions


def _prompt(environment: ArithmeticEnvironment) -> str:
    (observation,) = environment.observe()
    return observation.prompt


def test_a_question_is_answered_freely() -> None:
    environment = ArithmeticEnvironment(max_operand=9)
    environment.reset(3)
    (observation,) = environment.observe()
    assert observation.agent == AGENT
    assert observation.choices is None
    assert observation.prompt.startswith("Q: ")
    assert observation.prompt.endswith(" =\nA:")
    assert not environment.in_opening
    assert not environment.done


@pytest.mark.parametrize(("asked", "parts"), [("all", {False, True}), ("training", {False}), ("held_out", {True})])
def test_the_seed_draws_the_question_from_all_or_from_one_part(asked: Questions, parts: set[bool]) -> None:
    prompts = []
    environment = ArithmeticEnvironment(max_operand=5, questions=asked)
    for seed in range(400):
        environment.reset(seed)
        prompts.append(_prompt(environment))
        environment.reset(seed)
        assert _prompt(environment) == prompts[-1]
    questions = [(a, b) for a in range(6) for b in range(6)]
    assert set(prompts) == {question(a, b) for a, b in questions if is_held_out(a, b) in parts}


def test_one_question_in_five_is_held_out_whatever_the_range() -> None:
    for largest in (1, 4, 9, 14, 99):
        held_out = [is_held_out(a, b) for a in range(largest + 1) for b in range(largest + 1)]
        assert 0 < sum(held_out) < len(held_out)
        assert abs(sum(held_out) / len(held_out) - 0.2) <= 0.05
    sums = {a + b for a in range(10) for b in range(10) if is_held_out(a, b)}
    assert len(sums) > 12, "of 19: they are no sums of their own kind"


@pytest.mark.parametrize(
    ("text", "reward"), [(" 7", 1.0), ("7\n", 1.0), ("7", 1.0), ("8", 0.0), ("7 7", 0.0), ("07", 0.0), ("", 0.0)]
)
def test_only_the_sum_is_rewarded(text: str, reward: float) -> None:
    environment = ArithmeticEnvironment()
    seed = next(seed for seed in range(1000) if _reset_prompt(environment, seed) == question(3, 4))
    environment.reset(seed)
    environment.step({AGENT: text})
    assert environment.rewards() == {AGENT: reward}
    assert environment.done
    assert environment.observe() == ()


def _reset_prompt(environment: ArithmeticEnvironment, seed: int) -> str:
    environment.reset(seed)
    return _prompt(environment)


def test_question_and_answer_are_the_texts_of_an_episode() -> None:
    assert question(12, 30) + answer(12, 30) == "Q: 12 + 30 =\nA: 42"


def test_a_snapshot_continues_alike() -> None:
    first, second = ArithmeticEnvironment(), ArithmeticEnvironment()
    first.reset(11)
    snapshot = json.loads(json.dumps(first.snapshot()))
    second.reset(12)
    second.step({AGENT: "no"})
    second.restore(snapshot)
    assert not second.done
    assert second.observe() == first.observe()
    first.step({AGENT: "5"})
    second.restore(json.loads(json.dumps(first.snapshot())))
    assert second.done
    assert second.rewards() == first.rewards()


def test_a_missing_answer_and_a_strange_snapshot_are_refused() -> None:
    environment = ArithmeticEnvironment()
    with pytest.raises(InvalidActionError, match="no answer for 'solver', only for \\['FRANCE'\\]"):
        environment.step({"FRANCE": "5"})
    with pytest.raises(InvalidActionError, match="'diplomacy'"):
        environment.restore({"environment": "diplomacy", "a": 1})
    assert not environment.done
