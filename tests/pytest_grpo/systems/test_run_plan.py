from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.unsupported import UnsupportedError


def reward(prompt: str, answers: Sequence[str]) -> float:
    return float(len(answers))


def test_a_plan_knows_its_episodes() -> None:
    assert RunPlan(("a", "b"), reward, group_size=3).num_episodes == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ()}, "prompts: there are none; give one at least"),
        ({"group_size": 0}, "group_size 0: allowed are whole numbers from 1 on"),
        ({"max_tokens": -1}, "max_tokens -1: allowed are whole numbers from 1 on"),
        ({"max_policy_lag_steps": -1}, "max_policy_lag_steps -1: allowed are whole numbers from 0 on"),
        ({"buffer_depth": 0}, "buffer_depth 0: allowed are whole numbers from 1 on"),
    ],
)
def test_an_impossible_plan_is_one_line(changes: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"prompts": ("a",), "reward": reward} | changes
    with pytest.raises(ValueError, match=f"^{message}$"):
        RunPlan(**values)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_policy_lag_steps": 1}, "system plain: samples and trains in turns; give max_policy_lag_steps 0"),
        ({"buffer_depth": 2}, "system plain: samples and trains in turns; give max_policy_lag_steps 0"),
        ({"reply": lambda prompt, answers: None}, "system plain: an episode has one answer; leave out reply"),
    ],
)
def test_a_system_that_takes_turns_refuses_more(changes: dict[str, object], message: str) -> None:
    RunPlan(("a",), reward).in_turns("plain")
    with pytest.raises(UnsupportedError, match=f"^{message}"):
        RunPlan(("a",), reward, **changes).in_turns("plain")  # pyright: ignore[reportArgumentType]
