"""Log-probabilities of finished completions in forward passes without a gradient, before the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel

from grpo_core.config import TrainingConfig
from grpo_core.model import Policy
from grpo_core.packing import build_packed_batch, pack_completions, score_chosen, split_packs, usable_packing
from grpo_core.training.objective.known import KnownLogprobs, num_chosen
from grpo_core.types import Completion, Float64


@dataclass(frozen=True, slots=True)
class ChosenScores:
    """Log-probability and entropy [C] of the chosen tokens, completion after completion, in nats."""

    logprobs: Float64
    entropy: Float64


@torch.no_grad()
def score_completions(policy: Policy, completions: Sequence[Completion], config: TrainingConfig) -> ChosenScores:
    """Scores of ``completions`` under ``policy`` as it is now, in the micro-batches that training them would take."""
    bounds = np.concatenate([[0], np.cumsum(num_chosen(completions))])
    scores = np.zeros((2, bounds[-1]))
    packing = usable_packing(policy.decoder, config.packing)
    packs = pack_completions(completions, packing)
    for micro_batch in split_packs(packs, config.micro_batch_tokens, packing):
        batch = build_packed_batch(micro_batch, completions, packing, policy.device)
        found = score_chosen(policy.decoder, policy.head, batch)
        where = np.concatenate([np.arange(bounds[member], bounds[member + 1]) for member in batch.order])
        scores[:, where] = torch.stack([found.logprobs, found.entropy]).double().cpu().numpy()
    return ChosenScores(scores[0], scores[1])


def find_logprobs(
    policy: Policy, adapted: PeftModel, completions: Sequence[Completion], config: TrainingConfig
) -> KnownLogprobs:
    """What the objective of ``completions`` needs: what came with them, and the rest from forward passes.

    Old log-probabilities are computed when the configuration asks for them, the reference's, with the adapter of
    ``adapted`` off, for the completions that have none and when there is a KL term.
    """
    chosen = [item.sampling_logprobs[item.completion_mask] for item in completions]
    sampling = np.concatenate([np.zeros(0), *chosen]).astype(np.float64)
    reference = _reference(policy, adapted, completions, config) if config.kl_coefficient > 0 else None
    if config.old_logprobs == "sampling":
        return KnownLogprobs(sampling, sampling, reference)
    scores = score_completions(policy, completions, config)
    return KnownLogprobs(sampling, scores.logprobs, reference, scores.entropy)


def _reference(
    policy: Policy, adapted: PeftModel, completions: Sequence[Completion], config: TrainingConfig
) -> Float64:
    lost = [item for item in completions if item.ref_logprobs is None]
    scored = np.zeros(0)
    if lost:
        with adapted.disable_adapter():
            scored = score_completions(policy, lost, config).logprobs
    rows, start = [], 0
    for item in completions:
        if item.ref_logprobs is not None:
            rows.append(item.ref_logprobs[item.completion_mask])
        else:
            end = start + int(np.count_nonzero(item.completion_mask))
            rows.append(scored[start:end])
            start = end
    return np.concatenate([np.zeros(0), *rows])
