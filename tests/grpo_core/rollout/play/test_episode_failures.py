"""A failing episode is retried, or its error reaches the caller."""

from __future__ import annotations

import logging
import math
from collections import ChainMap, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from grpo_core.config import EnvironmentConfig
from grpo_core.environments import ConfiguredFactory, EnvironmentFactory
from grpo_core.environments.arithmetic import AGENT, ArithmeticEnvironment
from grpo_core.errors import AdapterNotFoundError, EnvironmentCodeError, EpisodeError, PromptError
from grpo_core.rollout.play.episode import MAX_ATTEMPTS
from grpo_core.rollout.protocol import Outcome
from grpo_core.types import Observation
from tests.grpo_core.rollout.one_by_one import OneByOne
from tests.grpo_core.rollout.play.batch_content import content
from tests.grpo_core.rollout.play.duel import duels
from tests.grpo_core.rollout.play.rooms import SMALL, TINY, Rooms


@pytest.mark.parametrize(
    ("breaks", "num_rounds", "error"),
    [
        ("step", 1, "step() failed with ZeroDivisionError: a broken rule (duel.py, line "),
        ("wrong move", 1, "InvalidActionError: a broken move"),
        ("observe", 1, "observe() failed with KeyError: 'a lost board' (duel.py, line "),
        ("nobody", 1, "InvalidActionError: observe() gave no observation, and done is false"),
        ("prompt", 1, "PromptError: prompt of"),
        ("rewards", 2, "InvalidActionError: rewards() has none for agent 'right', only for ['left']"),
    ],
)
def test_a_failed_episode_is_played_again(
    breaks: str, num_rounds: int, error: str, rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    whole = content(rooms.collector(duels()).collect(4))
    collector = rooms.collector(duels({7: breaks}))  # 0 to 2 play the openings, 3 to 5 are siblings of 0
    with caplog.at_level(logging.WARNING, logger="grpo_core.rollout"):
        batch = collector.collect(4)

    (failure,) = collector.failures
    assert batch.stats.num_failed_episodes == 1
    assert [record.getMessage() for record in caplog.records if record.name == "grpo_core.rollout.play.collector"] == [
        f"{failure}; retrying"
    ]
    assert str(failure).startswith("batch 4, group 1, sample 2, attempt 1 of 3: environment 'games:duel' with seed ")
    assert failure.num_rounds == num_rounds
    assert failure.error.startswith(error)
    played = content(batch)
    replaced = [1 * 8 + 2, 1 * 8 + 4 + 2]
    assert [place for place, (one, other) in enumerate(zip(whole, played, strict=True)) if one != other] == replaced
    for place in replaced:
        assert played[place][3][0][0] == whole[place][3][0][0]  # from the same starting state
        assert len(played[place][3]) == 2


def test_agents_of_a_failed_episode_are_asked_no_further(rooms: Rooms) -> None:
    engine = rooms.engine = OneByOne(rooms.engine)

    rooms.collector(duels({7: "prompt"})).collect(0)

    tickets = [place for place, request in enumerate(engine.submitted, 1) if len(request.prompt_ids) > 2048]
    assert len(tickets) == 2  # of the left and the right
    assert engine.cancelled == tickets[1:]


def test_a_failed_opening_is_played_again(rooms: Rooms) -> None:
    whole = rooms.collector(duels()).collect(0)
    collector = rooms.collector(duels({1: "opening"}))
    batch = collector.collect(0)

    assert batch.stats.num_failed_episodes == 1
    assert collector.failures[0].is_opening
    assert "group 1, the opening, attempt 1" in str(collector.failures[0])
    changed = [one != other for one, other in zip(content(whole), content(batch), strict=True)]
    assert changed == [8 <= place < 16 for place in range(24)]


@pytest.mark.parametrize("breaks", ["opening", "step", "observe", "nobody", "prompt", "rewards"])
def test_an_episode_that_always_fails_is_an_error(breaks: str, rooms: Rooms) -> None:
    engine = rooms.engine = OneByOne(rooms.engine)
    collector = rooms.collector(duels(breaks), TINY)

    with pytest.raises(
        EpisodeError, match=r"batch 0, group 0, .*, attempt 3 of 3: environment 'games:duel' .*; fix the environment"
    ):
        collector.collect(0)

    assert max(failure.attempt for failure in collector.failures) == MAX_ATTEMPTS
    assert not engine.waiting
    assert len(content(rooms.collector(duels(), TINY).collect(0))) == 8


def test_what_fails_before_anybody_answers_reaches_the_caller(rooms: Rooms) -> None:
    class Unset(ArithmeticEnvironment):
        def observe(self) -> tuple[Observation, ...]:
            raise RuntimeError("no questions here")

    collector = rooms.collector(
        ConfiguredFactory(EnvironmentConfig(name="games:unset"), "a long key", lambda _: Unset())
    )
    with pytest.raises(EnvironmentCodeError) as caught:
        collector.collect(0)
    assert str(caught.value).startswith(
        "environment 'games:unset': its first observation failed with RuntimeError: no questions here "
        "(test_episode_failures.py, line "
    )
    assert collector.failures == ()


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({AGENT: math.nan}, "rewards() gave agent 'solver' nan, which is not finite; give a finite number"),
        ({AGENT: "1.0"}, "rewards() gave agent 'solver' '1.0', which is no number"),
        ({AGENT: None}, "rewards() gave agent 'solver' None, which is no number"),
        ({AGENT: 1e31}, "rewards() gave agent 'solver' 1e+31, which is beyond 1e+30; give a finite number"),
        (ChainMap(), "rewards() has none for agent 'solver', only for []; give it a number"),
        (1.0, "rewards() gave 1.0; give a number for each agent, by its name"),
    ],
)
def test_what_is_no_reward_is_named(found: Any, line: str, rooms: Rooms) -> None:
    class Worthless(ArithmeticEnvironment):
        def rewards(self) -> Any:
            return found

    factory = ConfiguredFactory(EnvironmentConfig(name="games:worthless"), "a long key", lambda _: Worthless())
    with pytest.raises(EpisodeError) as caught:
        rooms.collector(factory).collect(0)
    assert "attempt 3 of 3: environment 'games:worthless' with seed " in str(caught.value)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    "found",
    [*({AGENT: reward} for reward in (True, 1, np.float32(1), torch.tensor(1.0))), defaultdict(lambda: 1.0)],
    ids=["bool", "int", "numpy", "torch", "default"],
)
def test_what_has_a_number_is_a_reward(found: Any, rooms: Rooms) -> None:
    class Worthy(ArithmeticEnvironment):
        def rewards(self) -> Any:
            return found

    batch = rooms.collector(ConfiguredFactory(EnvironmentConfig(), "worthy", lambda _: Worthy())).collect(0)
    assert {each.reward for group in batch.groups for each in group.trajectories} == {1.0}


def seen(*arguments: Any, **fields: Any) -> tuple[Observation, ...]:
    return (Observation(AGENT, *arguments, **fields),)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ((), "observe() gave no observation, and done is false; make it done, or observe"),
        ("What?", "observe() gave 'What?'; give a tuple of grpo_core.types.Observation"),
        (({"prompt": "What?"},), "observe() gave ({'prompt': 'What?'},); give a tuple of"),
        (seen(5), "observe() gave agent 'solver' the prompt 5; give a text"),
        (seen(messages="hello"), "gave agent 'solver' the messages 'hello'; give a list of messages"),
        (seen(messages=[{"content": "a"}]), "the messages [{'content': 'a'}]; give a list of messages"),
        (seen(messages=[]), "the messages []; give a list of messages"),
        (seen("a", choices=()), "gave agent 'solver' the choices (); give a tuple of segments"),
        (seen("a", choices=(("b\n",), ())), "the choices (('b\\n',), ()); give a tuple"),
        (seen("a", choices=["b\n"]), "the choices ['b\\n']; give a tuple"),
        (seen("a", choices=((1, 2),)), "the choices ((1, 2),); give a tuple"),
        (seen("a", choices=np.ones((2, 2))), "the choices array("),
    ],
)
def test_what_is_no_observation_is_named(found: Any, line: str, rooms: Rooms) -> None:
    class Silent(ArithmeticEnvironment):
        def observe(self) -> Any:
            return found

    factory = ConfiguredFactory(EnvironmentConfig(name="games:silent"), "a long key", lambda _: Silent())
    with pytest.raises(EnvironmentCodeError) as caught:
        rooms.collector(factory).collect(0)
    assert str(caught.value).startswith("environment 'games:silent': ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_choices_may_be_lists(rooms: Rooms) -> None:
    class Listing(ArithmeticEnvironment):
        def observe(self) -> Any:
            return [replace(each, choices=[["1\n", "2\n"]]) for each in super().observe()]

    batch = rooms.collector(ConfiguredFactory(EnvironmentConfig(), "listing", lambda _: Listing())).collect(0)
    turns = [turn for group in batch.groups for each in group.trajectories for turn in each.turns]
    assert {rooms.tokenizer.decode(turn.completion_ids) for turn in turns} <= {"1\n", "2\n"}


def test_a_prompt_that_does_not_fit_reaches_the_caller(
    rooms: Rooms, arithmetic: EnvironmentFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """At once: the starting state's prompt would be too long in every attempt."""
    engine = rooms.engine = OneByOne(rooms.engine)
    collector = rooms.collector(arithmetic, SMALL.model_copy(update={"max_completion_tokens": 2045}))

    with pytest.raises(PromptError, match="the model's context is 2048"):
        collector.collect(0)

    assert engine.num_steps == 1
    assert not engine.waiting
    assert collector.failures == ()
    assert not caplog.records


def test_an_adapter_that_is_missing_reaches_the_caller(rooms: Rooms) -> None:
    class Elsewhere(OneByOne):
        def step(self) -> list[Outcome]:
            lost = AdapterNotFoundError("version 3 is gone")
            return [replace(outcome, result=lost) for outcome in super().step()]

    rooms.engine = Elsewhere(rooms.engine)
    with pytest.raises(AdapterNotFoundError, match="version 3"):
        rooms.collector(duels()).collect(0)
