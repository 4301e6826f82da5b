"""A batch as the parts that the optimizer's updates train on.

What is known of the batch before its first update, advantages and log-probabilities, is found for the whole of it.
Normalisation is each part's own: an update on a part is a step on a smaller batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpo_core.config import TrainingConfig
from grpo_core.training.objective.objective import Objective
from grpo_core.training.objective.selected_groups import SelectedGroups
from grpo_core.training.objective.token_table import TokenLogprobs, num_chosen
from grpo_core.types import Float64


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """Some of a batch's groups, and what an update on them optimises."""

    part: SelectedGroups
    objective: Objective


def split_batch(
    part: SelectedGroups, logprobs: TokenLogprobs, advantages: Float64, config: TrainingConfig
) -> list[MiniBatch]:
    """``config.mini_batches`` of neighbouring groups, which often begin alike; equal in number of groups, up to one.

    ``logprobs`` [C] and ``advantages`` [B] are of all completions of ``part``.
    """
    num = config.mini_batches
    ends = [len(part.groups) * (index + 1) // num for index in range(num)]
    found, first, sequence, token = [], 0, 0, 0
    for end in ends:
        piece = SelectedGroups(part.groups[first:end], 0)
        completions = piece.completions
        after = sequence + len(completions), token + int(num_chosen(completions).sum())
        known = logprobs.between(token, after[1])
        found.append(MiniBatch(piece, Objective(piece, known, advantages[sequence : after[0]], config)))
        first, (sequence, token) = end, after
    assert (sequence, token) == (len(advantages), len(logprobs.sampling))
    return found
