from __future__ import annotations

import pytest

from grpo_core.environments.diplomacy.rewards import power_reward


@pytest.mark.parametrize(
    ("before", "after", "survives", "reward"),
    [
        (3, 3, True, 0.0),
        (3, 5, True, 2 / 18),
        (5, 3, True, -2 / 18),
        (3, 21, True, 1.0),
        (3, 30, True, 1.0),
        (2, 0, True, -2 / 18),
        (2, 0, False, -1.0),
        (0, 0, False, 0.0),
    ],
)
def test_power_reward(before: int, after: int, survives: bool, reward: float) -> None:
    assert power_reward(before, after, survives) == pytest.approx(reward)


def test_gains_add_up_over_time() -> None:
    steps = [(3, 5), (5, 4), (4, 9)]
    assert sum(power_reward(*step, survives=True) for step in steps) == pytest.approx(power_reward(3, 9, True))
