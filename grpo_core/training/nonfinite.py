"""Find the trajectories that make a step's loss or gradient non-finite (NaN or inf).

Legend: B sequences of the step, C chosen tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from grpo_core.training.forward.packing import PackedBatch
from grpo_core.training.objective.objective import LossTerms
from grpo_core.training.objective.selected_groups import SelectedGroups
from grpo_core.types import Bool


class FiniteWatch:
    """Records which tokens are finite, for ``suspects``. Nothing waits for the device until that is called."""

    def __init__(self) -> None:
        self._micro_batches: list[tuple[PackedBatch, Tensor, Tensor]] = []

    def add(self, batch: PackedBatch, terms: LossTerms, parameters: Sequence[nn.Parameter]) -> None:
        """Record a micro-batch, after its backward pass."""
        values = torch.stack([terms.logprobs, terms.ratio, terms.kl, terms.mismatch])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._micro_batches.append((batch, values.isfinite().all(dim=0), norm.isfinite() & terms.loss.isfinite()))

    def suspects(self, num_sequences: int) -> Bool:
        """[B] bool: the sequences with a non-finite token. Without one, those of the first micro-batch after whose
        backward pass the gradient was non-finite."""
        suspected = np.zeros(num_sequences, dtype=np.bool_)
        for batch, is_finite, _ in self._micro_batches:
            suspected[batch.members[~is_finite].cpu().numpy()] = True
        if not suspected.any():
            broken = [batch for batch, _, has_finite_gradient in self._micro_batches if not has_finite_gradient]
            suspected[list(broken[0].order) if broken else []] = True
        return suspected


def trajectory_names(part: SelectedGroups, is_sequence: Bool) -> str:
    """The trajectories with any of the sequences [B], as ``<group id>[<index in the group>]``, joined by ``|``."""
    names = [
        f"{group.group_id}[{index}]"
        for group in part.groups
        for index, trajectory in enumerate(group.trajectories)
        for _ in trajectory.turns
    ]
    return "|".join(dict.fromkeys(name for name, is_one in zip(names, is_sequence, strict=True) if is_one))
