from __future__ import annotations

import pytest

from grpo_core.rollout.overlong import overlong_penalty


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
