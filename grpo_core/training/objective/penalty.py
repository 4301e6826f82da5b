"""The KL term as a part of the reward, before the advantages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grpo_core.training.objective.trained_part import TrainedPart
from grpo_core.types import Float64, Group


def penalised_groups(part: TrainedPart, kl: Float64, coefficient: float) -> tuple[Group, ...]:
    """The groups with reward - ``coefficient`` * sum of ``kl`` [C] over the trajectory's chosen tokens.

    Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", eq. 2; with leave-one-out advantages
    the objective of Ahmadian et al. 2024, "Back to Basics", RLOO.
    """
    groups, start = [], 0
    for group in part.groups:
        trajectories = []
        for trajectory in group.trajectories:
            size = sum(int(np.count_nonzero(turn.completion_mask)) for turn in trajectory.turns)
            penalty = coefficient * float(kl[start : start + size].sum())
            trajectories.append(replace(trajectory, reward=trajectory.reward - penalty))
            start += size
        groups.append(replace(group, trajectories=tuple(trajectories)))
    return tuple(groups)
