from __future__ import annotations

import pytest

from grpo_core.schedule.step_line import figures_line


def test_the_last_line_says_how_fast_and_how_idle() -> None:
    figures = {"steps_per_hour": 2975.2, "trainer_idle_share": 0.618, "sampler_idle_share": 0.0}
    line = "2,975 steps per hour; idle in the last step: trainer 62%, rollouts 0%"
    assert figures_line(figures) == line


@pytest.mark.parametrize(
    "figures", [{}, {"steps_per_hour": None, "trainer_idle_share": 0.5, "sampler_idle_share": 0.5}]
)
def test_a_single_step_has_no_such_line(figures: dict[str, float | None]) -> None:
    assert figures_line(figures) is None
