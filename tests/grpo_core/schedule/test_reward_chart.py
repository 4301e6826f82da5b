from __future__ import annotations

import pytest

from grpo_core.schedule.reward_chart import reward_chart


def test_a_curve_that_rises_is_drawn_from_its_axis_to_its_top() -> None:
    assert reward_chart([0.0, 0.25, 0.5, 1.0], 1) == [
        "  1.000 |   █",
        "        |   █",
        "        |   █",
        "        |  ██",
        "        | ▄██",
        "  0.000 | ███",
        " reward  step 1 4",
    ]


def test_an_output_without_blocks_gets_a_curve_as_well() -> None:
    chart = reward_chart([0.0, 0.25, 0.5, 1.0], 1, ascii_only=True)
    assert chart[0] == "  1.000 |   #"
    assert chart[4] == "        | ###"
    assert "\n".join(chart).isascii()


def test_many_steps_share_a_column_and_a_resumed_run_keeps_its_numbers() -> None:
    lines = reward_chart([float(step >= 300) for step in range(600)], 201)

    assert len(lines) == 7
    assert {len(line) for line in lines[:6]} == {9 + 60}
    assert lines[0].count("█") == 30
    assert lines[-1].endswith("800")
    assert "step 201" in lines[-1]
    assert len(lines[-1]) == 9 + 60


@pytest.mark.parametrize("rewards", [[0.0], [0.5] * 3, [-1.0, -1.0], [-2.0, 1.0]])
def test_any_rewards_can_be_drawn(rewards: list[float]) -> None:
    lines = reward_chart(rewards, 1)
    assert len(lines) == 7
    assert f"{max(rewards):.3f}" in lines[0]
    assert f"{min(0.0, *rewards):.3f}" in lines[5]
