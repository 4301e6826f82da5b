"""Group-relative advantages: how much better a trajectory did than its siblings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from grpo_core.types import Float32, Group

EPSILON = 1e-4
Scale = Literal["group_std", "batch_std", "mean_only", "leave_one_out"]


def group_advantages(groups: Sequence[Group], scale: Scale) -> list[Float32]:
    """One array [G] per group: rewards minus the group's mean, scaled. They sum to 0 over a group.

    ``group_std`` divides by the group's sample standard deviation (Shao et al. 2024, DeepSeekMath, section 4.1.2),
    ``batch_std`` by that of all centred rewards of the batch (Hu et al. 2025, REINFORCE++), ``mean_only`` by nothing
    (Liu et al. 2025, Dr. GRPO, section 3.2). ``leave_one_out`` takes the mean of the siblings alone, which is
    G / (G - 1) times the centred reward (Kool et al. 2019; Ahmadian et al. 2024, RLOO). A group with equal
    rewards gets zeros. Without groups there is nothing.
    """
    centred = []
    for group in groups:
        rewards = np.array([trajectory.reward for trajectory in group.trajectories], dtype=np.float64)
        # Equal rewards may differ from their rounded mean, and Adam would scale that up.
        centred.append(rewards - rewards.mean() if np.ptp(rewards) > 0 else np.zeros_like(rewards))
    if scale == "group_std":
        return [(values / (_spread(values) + EPSILON)).astype(np.float32) for values in centred]
    if scale == "batch_std":
        spread = float(np.sqrt(np.mean(np.concatenate(centred) ** 2))) if centred else 0.0
        return [(values / (spread + EPSILON)).astype(np.float32) for values in centred]
    if scale == "leave_one_out":
        return [(values * len(values) / max(len(values) - 1, 1)).astype(np.float32) for values in centred]
    return [values.astype(np.float32) for values in centred]


def _spread(values: np.ndarray) -> float:
    """Sample standard deviation; 0 for a group of one."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
