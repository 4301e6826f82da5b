"""Penalties as a part of the reward, before the advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from grpo_core.types import Float64, Group


def overlong_penalised_groups(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups with reward + overlong penalty (Yu et al. 2025, DAPO, section 3.4)."""
    return tuple(
        replace(
            group,
            trajectories=tuple(
                replace(item, reward=item.reward + item.overlong_penalty) for item in group.trajectories
            ),
        )
        for group in groups
    )


def kl_penalised_groups(groups: Sequence[Group], kl: Float64, coefficient: float) -> tuple[Group, ...]:
    """The groups with reward - ``coefficient`` * sum of ``kl`` [C] over the trajectory's chosen tokens.

    Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", eq. 2; with leave-one-out advantages
    the objective of Ahmadian et al. 2024, "Back to Basics", RLOO.
    """
    penalised, start = [], 0
    for group in groups:
        trajectories = []
        for trajectory in group.trajectories:
            size = sum(int(np.count_nonzero(turn.completion_mask)) for turn in trajectory.turns)
            penalty = coefficient * float(kl[start : start + size].sum())
            trajectories.append(replace(trajectory, reward=trajectory.reward - penalty))
            start += size
        penalised.append(replace(group, trajectories=tuple(trajectories)))
    return tuple(penalised)
