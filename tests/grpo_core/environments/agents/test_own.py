"""Agents of one's own: their programs ask over the loopback, the answers come from here."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from grpo_core import Agent, Environment, EnvironmentConfig
from grpo_core.environments.agents.environment import AGENT
from grpo_core.errors import ConfigError, EnvironmentCodeError, InvalidActionError
from tests.grpo_core.environments.agents.chats import ask, guess, guess_while_others_do

CONFIG = EnvironmentConfig()


def said(environment: Environment) -> list[str]:
    """The contents of the messages that wait for an answer."""
    (observation,) = environment.observe()
    assert observation.messages is not None
    return [message["content"] for message in observation.messages]


@pytest.mark.parametrize("play", [guess, guess_while_others_do])
def test_each_call_is_a_turn_and_the_result_is_the_reward(play: Any) -> None:
    environment = Agent(play, tasks=[7, 8])(CONFIG)
    environment.reset(3)
    assert said(environment) == ["Guess."]
    assert environment.rewards() == {AGENT: 0.0}
    environment.step({AGENT: " 7\n"})
    assert said(environment) == ["Guess.", " 7\n", "No."]  # as it was sampled, not as the program had it
    environment.step({AGENT: "8"})
    assert environment.done
    assert environment.observe() == ()
    assert environment.rewards() == {AGENT: 0.5}


def test_siblings_play_at_the_same_time() -> None:
    barrier = threading.Barrier(3)

    def play(base_url: str, task: str) -> float:
        barrier.wait(60)  # all three have begun
        return float(ask(base_url, task))

    agent = Agent(play, tasks=["a", "b"])
    first, *siblings = (agent(CONFIG) for _ in range(3))
    first.reset(1)
    for sibling in siblings:
        sibling.restore(first.snapshot())
    for number, environment in enumerate((first, *siblings)):
        assert said(environment) == ["b"]
        environment.step({AGENT: str(number)})
    assert [environment.rewards()[AGENT] for environment in (first, *siblings)] == [0.0, 1.0, 2.0]


def test_another_chat_is_not_taken_for_the_first_one_going_on() -> None:
    def play(base_url: str, task: str) -> float:
        return float(ask(base_url, task, ask(base_url, task, "Shorter.", "so") + "!", "and now?") == "3")

    environment = Agent(play, tasks=["a"])(CONFIG)
    environment.reset(0)
    assert said(environment) == ["a", "Shorter.", "so"]
    environment.step({AGENT: " 2 "})
    assert said(environment) == ["a", " 2 !", "and now?"]
    environment.step({AGENT: "3"})
    assert environment.rewards() == {AGENT: 1.0}


def fails(base_url: str, task: str) -> float:
    raise LookupError(f"no {task}\nhere")


def exits(base_url: str, task: str) -> float:
    raise SystemExit(task)


@pytest.mark.parametrize(
    ("play", "line"),
    [
        (fails, r"task 0 of .*test_own:fails failed with LookupError: no such task here \(test_own.py, line "),
        (exits, r"task 0 of .*test_own:exits failed with SystemExit: such task"),
        (lambda base_url, task: "much", r"agent .*<lambda> returned 'much', which is no number; return a finite"),
        (lambda base_url, task: "1.0", r"agent .*<lambda> returned '1.0', which is no number"),
        (lambda base_url, task: 10**400, r"agent .*<lambda> returned 1000.*, which is no number"),
        (lambda base_url, task: None, r"agent .*<lambda> returned None, which is no number"),
    ],
)
def test_what_a_program_does_wrong_is_one_line(play: Any, line: str) -> None:
    environment = Agent(play, tasks=["such task"])(CONFIG)
    environment.reset(0)
    with pytest.raises(EnvironmentCodeError, match=line) as raised:
        environment.rewards()
    assert "\n" not in str(raised.value)


def test_a_program_of_an_environment_that_begins_anew_is_let_go() -> None:
    ended: list[str] = []
    over = threading.Event()

    def play(base_url: str, task: str) -> float:
        try:
            return float(ask(base_url, task))
        except ConnectionAbortedError as error:
            ended.append(str(error))
            over.set()
            raise

    environment = Agent(play, tasks=["a"])(CONFIG)
    environment.reset(0)
    assert said(environment) == ["a"]
    environment.reset(0)
    assert over.wait(60)
    environment.step({AGENT: "2"})
    assert environment.rewards() == {AGENT: 2.0}
    over.clear()
    environment.reset(0)
    assert said(environment) == ["a"]
    del environment
    assert over.wait(60)
    assert ended == 2 * ["the server answers 410"]


def test_no_tasks_and_foreign_snapshots_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"agent .*chats:guess: it has no tasks; give one at least"):
        Agent(guess, tasks=[])
    with pytest.raises(ConfigError, match=r"agent functools:partial: it has no tasks"):
        Agent(partial(guess, task=1), tasks=[])
    environment = Agent(guess, tasks=[1])(CONFIG)
    environment.reset(0)
    for snapshot in ({}, {"program": "other", "task": 0}, {**environment.snapshot(), "task": 1}):
        with pytest.raises(InvalidActionError, match="not one of the 1 tasks of"):
            environment.restore(snapshot)
