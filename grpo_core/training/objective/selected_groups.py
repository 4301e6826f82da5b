"""The part of a batch that a step trains on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grpo_core.types import Bool, Completion, Group, Trajectory


@dataclass(frozen=True, slots=True)
class SelectedGroups:
    """The groups that a step trains on, and their turns in order: B sequences."""

    groups: tuple[Group, ...]
    num_dropped_groups: int

    @property
    def trajectories(self) -> list[Trajectory]:
        return [trajectory for group in self.groups for trajectory in group.trajectories]

    @property
    def completions(self) -> list[Completion]:
        return [turn for trajectory in self.trajectories for turn in trajectory.turns]

    @property
    def num_turns(self) -> list[int]:
        """Per trajectory."""
        return [len(trajectory.turns) for trajectory in self.trajectories]


def select_groups(groups: tuple[Group, ...], *, drop_zero_variance: bool) -> SelectedGroups:
    """All groups, or those whose rewards differ: the others have no winner (Yu et al. 2025, DAPO, section 3.2)."""
    kept = tuple(group for group in groups if not drop_zero_variance or group.has_spread)
    return SelectedGroups(kept, len(groups) - len(kept))


def is_overlong(trajectory: Trajectory) -> bool:
    """Its last turn was cut off at its length (Yu et al. 2025, DAPO, section 3.4, overlong filtering)."""
    return len(trajectory.turns) > 0 and trajectory.turns[-1].finish_reason == "length"


def overlong_sequences(part: SelectedGroups) -> Bool:
    """[B]: the turns of overlong trajectories."""
    return np.repeat(np.array([is_overlong(item) for item in part.trajectories], dtype=np.bool_), part.num_turns)
