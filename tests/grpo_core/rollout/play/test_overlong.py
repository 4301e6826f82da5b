from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from grpo_core.config import EnvironmentConfig, RolloutConfig
from grpo_core.environments import ConfiguredFactory, EnvironmentFactory
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.rollout.play.overlong import overlong_penalty
from grpo_core.types import Observation, Trajectory
from tests.grpo_core.rollout.play.duel import Duel
from tests.grpo_core.rollout.play.rooms import SMALL, Rooms


def test_by_hand() -> None:
    """Of 20 tokens the last 8 cost: an eighth more for each."""
    lengths = (1, 11, 12, 13, 16, 19, 20)
    found = [overlong_penalty(num, max_tokens=20, buffer_tokens=8) for num in lengths]

    assert found == [0, 0, 0, -0.125, -0.5, -0.875, -1]


def test_a_buffer_as_long_as_the_answer_costs_every_token() -> None:
    assert [overlong_penalty(num, max_tokens=4, buffer_tokens=4) for num in range(5)] == [0, -0.25, -0.5, -0.75, -1]


def test_without_a_buffer_nothing_costs() -> None:
    assert overlong_penalty(20, max_tokens=20, buffer_tokens=0) == 0


def test_the_penalty_is_that_of_trl() -> None:
    pytest.importorskip("trl", reason="the extra trl is not installed")
    from trl.rewards import get_soft_overlong_punishment  # pyright: ignore[reportMissingImports]

    for buffer_tokens in (1, 3, 10):
        expected = get_soft_overlong_punishment(10, buffer_tokens)([[1] * num for num in range(11)])
        found = [overlong_penalty(num, max_tokens=10, buffer_tokens=buffer_tokens) for num in range(11)]
        assert found == pytest.approx(expected)


class Lettered(ArithmeticEnvironment):
    """Asks for letters, as many as one likes: a random policy ends such a line early or late."""

    def observe(self) -> tuple[Observation, ...]:
        return tuple(replace(item, pattern="[ab]*\n") for item in super().observe())


def test_open_ended_answers_near_their_longest_length_cost(rooms: Rooms, arithmetic: EnvironmentFactory) -> None:
    """Of 6 tokens the last 4: an answer of 4 tokens costs a half."""
    config = RolloutConfig(num_groups=4, group_size=8, max_completion_tokens=6, overlong_buffer_tokens=4)
    factory = ConfiguredFactory(EnvironmentConfig(), "lettered", lambda _: Lettered())

    def played(factory: EnvironmentFactory, config: RolloutConfig) -> list[Trajectory]:
        groups = rooms.collector(factory, config).collect(0).groups
        return [trajectory for group in groups for trajectory in group.trajectories]

    trajectories = played(factory, config)
    lengths = [len(item.turns[0].completion_ids) for item in trajectories]
    expected = {1: 0.0, 2: 0.0, 3: -0.25, 4: -0.5, 5: -0.75, 6: -1.0}
    assert [item.overlong_penalty for item in trajectories] == [expected[length] for length in lengths]
    assert len(set(lengths)) > 3
    assert {item.reward for item in trajectories} == {0.0}  # the environment's own
    free = played(arithmetic, config)
    assert {item.overlong_penalty for item in free if item.turns[0].finish_reason == "length"} == {-1.0}
    plain = played(factory, config.model_copy(update={"overlong_buffer_tokens": 0}))
    assert {item.overlong_penalty for item in plain} == {0.0}


def test_of_several_turns_the_longest_open_ended_answer_costs(rooms: Rooms) -> None:
    """The left agent's pattern has no longest match, the right one's has, and more than ``max_completion_tokens``."""

    class Patterned(Duel):
        def observe(self) -> tuple[Observation, ...]:
            left, right = super().observe()
            return (
                replace(left, choices=None, pattern="[ab]*\n"),
                replace(right, choices=None, pattern="[ab]{5,9}\n"),
            )

    config = RolloutConfig(num_groups=2, group_size=6, max_completion_tokens=5, overlong_buffer_tokens=4)
    factory = ConfiguredFactory(EnvironmentConfig(), "patterned", lambda _: Patterned(horizon=3))
    groups = rooms.collector(factory, config).collect(0).groups

    longest: dict[str, list[int]] = {"left": [], "right": []}
    for group in groups:
        for item in group.trajectories:
            length = max(len(turn.completion_ids) for turn in item.turns)
            longest[item.agent].append(length)
            assert item.overlong_penalty == (-(length - 1) / 4 if item.agent == "left" else 0.0)
            assert len(item.turns) == 3
    assert len(set(longest["left"])) > 1
    assert max(longest["right"]) > 5


def test_an_attempt_that_failed_costs_nothing(rooms: Rooms) -> None:
    """Its answers are forgotten, long ones too."""

    class Breaking(Lettered):
        num_steps = 0

        def step(self, actions: Mapping[str, str]) -> None:
            Breaking.num_steps += 1
            super().step(actions)
            if Breaking.num_steps <= 12:  # the first attempt of each
                raise ZeroDivisionError("a broken rule")

    config = SMALL.model_copy(update={"overlong_buffer_tokens": 5})
    batch = rooms.collector(ConfiguredFactory(EnvironmentConfig(), "breaking", lambda _: Breaking()), config).collect(0)

    assert batch.stats.num_failed_episodes == 12
    trajectories = [item for group in batch.groups for item in group.trajectories]
    lengths = [len(item.turns[0].completion_ids) for item in trajectories]
    assert [item.overlong_penalty for item in trajectories] == [-(length - 1) / 5 for length in lengths]
    assert len(set(lengths)) > 1
