"""Log-probabilities of finished completions in forward passes without a gradient, before the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grpo_core.config import TrainingConfig
from grpo_core.model.policy import Policy
from grpo_core.training.batches.micro_batches import own_micro_batches, own_sequences
from grpo_core.training.distributed.ranks import Ranks
from grpo_core.training.forward.packing import score_chosen
from grpo_core.training.objective.selected_groups import SelectedGroups
from grpo_core.training.objective.token_table import TokenLogprobs, num_chosen
from grpo_core.training.tuning.protocol import TrainedWeights
from grpo_core.types import Completion, Float64


@dataclass(frozen=True, slots=True)
class ChosenScores:
    """Log-probability and entropy [C] of the chosen tokens, completion after completion, in nats."""

    logprobs: Float64
    entropy: Float64


@torch.no_grad()
def score_completions(
    policy: Policy, completions: Sequence[Completion], own: Sequence[int], config: TrainingConfig, ranks: Ranks
) -> ChosenScores:
    """Scores of ``completions`` under the current ``policy``, in the same micro-batches as training.

    This process runs the passes for the indices ``own``; the results of all processes are summed.
    """
    bounds = np.concatenate([[0], np.cumsum(num_chosen(completions))])
    scores = np.zeros((2, bounds[-1]))
    for batch in own_micro_batches(policy, completions, own, config, ranks):
        found = score_chosen(policy.decoder, policy.head, batch)
        where = np.concatenate([np.arange(bounds[member], bounds[member + 1]) for member in batch.order])
        scores[:, where] = torch.stack([found.logprobs, found.entropy]).double().cpu().numpy()
    scores = ranks.total(scores)
    return ChosenScores(scores[0], scores[1])


def find_logprobs(
    policy: Policy, trained: TrainedWeights, part: SelectedGroups, config: TrainingConfig, ranks: Ranks
) -> TokenLogprobs:
    """The log-probabilities that the objective of ``part`` needs. What did not come with the completions is computed.

    Old log-probabilities are recomputed if the configuration says so. With a KL term, completions without reference
    log-probabilities are scored under the base model, which stands in for ``trained`` meanwhile.
    """
    completions, own = part.completions, own_sequences(part, ranks)
    chosen = [item.sampling_logprobs[item.completion_mask] for item in completions]
    sampling = np.concatenate([np.zeros(0), *chosen]).astype(np.float64)
    reference: Float64 | None = None
    if config.kl_coefficient > 0:
        missing = [index for index, item in enumerate(completions) if item.ref_logprobs is None]
        is_own = set(own)
        own_missing = [place for place, index in enumerate(missing) if index in is_own]
        scored = np.zeros(0)
        if missing:
            with trained.base_model():
                unscored = [completions[index] for index in missing]
                scored = score_completions(policy, unscored, own_missing, config, ranks).logprobs
        reference = _reference(completions, scored)
    if config.old_logprobs == "sampling":
        return TokenLogprobs(sampling, sampling, reference)
    scores = score_completions(policy, completions, own, config, ranks)
    return TokenLogprobs(sampling, scores.logprobs, reference, scores.entropy)


def _reference(completions: Sequence[Completion], scored: Float64) -> Float64:
    """[C]: the reference log-probabilities of ``completions``, from ``scored``, in order, where they are missing."""
    rows, start = [], 0
    for item in completions:
        if item.ref_logprobs is not None:
            rows.append(item.ref_logprobs[item.completion_mask])
        else:
            end = start + int(np.count_nonzero(item.completion_mask))
            rows.append(scored[start:end])
            start = end
    return np.concatenate([np.zeros(0), *rows])
