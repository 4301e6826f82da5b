from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.training.advantages import EPSILON, Scale, group_advantages
from grpo_core.types import Group, Trajectory


def groups(*rewards: list[float]) -> list[Group]:
    return [
        Group(str(index), tuple(Trajectory(str(index), "solver", (), reward) for reward in row))
        for index, row in enumerate(rewards)
    ]


def test_by_hand() -> None:
    rewards = groups([1.0, 0.0, 0.0, 1.0], [3.0, 0.0])

    # Deviations 1/2 and 3/2; sample standard deviations sqrt(1/3) and sqrt(9/2); all six squares sum to 11/2.
    own, batch = group_advantages(rewards, "group_std"), group_advantages(rewards, "batch_std")
    centred = group_advantages(rewards, "mean_only")

    assert own[0].tolist() == pytest.approx(np.array([1, -1, -1, 1]) * 0.5 / ((1 / 3) ** 0.5 + 1e-4), rel=1e-6)
    assert own[1].tolist() == pytest.approx(np.array([1, -1]) * 1.5 / (4.5**0.5 + 1e-4), rel=1e-6)
    spread = (5.5 / 6) ** 0.5 + 1e-4
    assert batch[0].tolist() == pytest.approx(np.array([1, -1, -1, 1]) * 0.5 / spread, rel=1e-6)
    assert batch[1].tolist() == pytest.approx(np.array([1, -1]) * 1.5 / spread, rel=1e-6)
    assert centred[0].tolist() == [0.5, -0.5, -0.5, 0.5]
    assert centred[1].tolist() == [1.5, -1.5]
    assert EPSILON == 1e-4
    assert {values.dtype for values in (*own, *batch, *centred)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("scale", get_args(Scale))
def test_without_groups_there_are_no_advantages(scale: Scale) -> None:
    """As in a step whose groups were all dropped."""
    assert group_advantages([], scale) == []


@pytest.mark.parametrize("scale", ["group_std", "batch_std", "mean_only"])
def test_a_group_without_spread_gets_zeros(scale: Scale) -> None:
    found = group_advantages(groups([0.7, 0.7, 0.7], [1.0]), scale)

    assert [values.tolist() for values in found] == [[0.0] * 3, [0.0]]


@pytest.mark.parametrize("scale", ["group_std", "batch_std", "mean_only"])
@given(
    rewards=st.lists(
        st.lists(
            st.floats(-100, 100, allow_subnormal=False).map(lambda value: round(value, 3)), min_size=1, max_size=8
        ),
        min_size=1,
        max_size=5,
    ),
    shift=st.floats(-10, 10).map(lambda value: round(value, 2)),
)
def test_sums_are_zero_and_only_differences_matter(scale: Scale, rewards: list[list[float]], shift: float) -> None:
    found = group_advantages(groups(*rewards), scale)
    shifted = group_advantages(groups(*[[value + shift for value in row] for row in rewards]), scale)

    for row, values, others in zip(rewards, found, shifted, strict=True):
        size = float(np.abs(values).max()) + 1
        assert abs(float(values.sum(dtype=np.float64))) < 1e-5 * size
        assert np.allclose(values, others, atol=1e-4 * size)
        better = np.array(row)[:, None] > np.array(row)[None]
        assert (values[:, None] >= values[None])[better].all()


def test_group_std_forgets_the_scale_of_rewards_and_batch_std_keeps_it_between_groups() -> None:
    rewards = groups([0.0, 1.0], [0.0, 10.0])
    own, batch = group_advantages(rewards, "group_std"), group_advantages(rewards, "batch_std")

    assert own[0][1] == pytest.approx(own[1][1], rel=1e-3)
    assert batch[1][1] / batch[0][1] == pytest.approx(10, rel=1e-6)
