from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from grpo_core.training.objective.penalty import kl_penalised_groups, overlong_penalised_groups
from grpo_core.training.objective.selected_groups import overlong_sequences, select_groups

if TYPE_CHECKING:
    from tests.grpo_core.training.objective.conftest import MakeStep


def test_groups_without_a_winner_are_dropped_on_request(make_step: MakeStep) -> None:
    groups = make_step(rewards=((1.0, 1.0), (0.0, 1.0, 1.0), (0.0,))).part.groups

    kept, dropped = (select_groups(groups, drop_zero_variance=drop) for drop in (False, True))

    assert (kept.num_dropped_groups, len(kept.groups)) == (0, 3)
    assert (dropped.num_dropped_groups, [group.group_id for group in dropped.groups]) == (2, ["1"])
    assert len(dropped.completions) == 3


def test_a_reward_that_is_no_number_has_no_equal(make_step: MakeStep) -> None:
    nothing = float("nan")
    groups = make_step(rewards=((nothing, nothing), (2.0, nothing), (2.0, 2.0), (2.0, 3.0))).part.groups

    assert [group.has_spread for group in groups] == [True, True, False, True]


def test_all_turns_of_a_trajectory_that_was_cut_off_at_the_end_are_overlong(make_step: MakeStep) -> None:
    part = make_step(rewards=((1.0, 0.0), (0.0, 2.0)), num_turns=3, overlong=(1, 2)).part

    assert part.num_turns == [3, 3, 3, 3]
    assert overlong_sequences(part).tolist() == [False] * 3 + [True] * 6 + [False] * 3


def test_the_penalty_is_the_sum_over_all_turns(make_step: MakeStep) -> None:
    step = make_step(rewards=((1.0, 0.0), (0.5,)), num_turns=2)
    kl = np.arange(len(step.logprobs), dtype=np.float64)
    sizes = [sum(step.lengths[index : index + 2]) for index in (0, 2, 4)]
    parts = np.split(kl, np.cumsum(sizes)[:-1])

    groups = kl_penalised_groups(step.part.groups, kl, 0.1)

    found = [trajectory.reward for group in groups for trajectory in group.trajectories]
    assert found == [reward - 0.1 * part.sum() for reward, part in zip((1.0, 0.0, 0.5), parts, strict=True)]


def test_the_overlong_penalty_is_added_to_the_reward(make_step: MakeStep) -> None:
    (group,) = make_step(rewards=((1.0, 0.0, 0.5),)).part.groups
    penalties = (-0.25, 0.0, -1.0)
    trajectories = zip(group.trajectories, penalties, strict=True)
    late = replace(group, trajectories=tuple(replace(item, overlong_penalty=value) for item, value in trajectories))

    (found,) = overlong_penalised_groups([late])

    assert [item.reward for item in found.trajectories] == [0.75, 0.0, -0.5]
