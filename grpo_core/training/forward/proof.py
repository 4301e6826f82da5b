"""Proves at load that a layout is exact for a model: its log-probabilities against the model's own, on random ids.

What a configuration says of a model is not enough. Some models do not pass a plan on to their layers, read packed
sequences as one, or change their logits after the head; and new architectures come with every release of transformers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_core.errors import ModelError, first_line
from grpo_core.model.policy import Policy
from grpo_core.model.proof import difference, ordinary_ids, own_logits
from grpo_core.training.forward.packing import (
    PACKINGS,
    build_packed_batch,
    pack_completions,
    score_chosen,
    usable_packing,
)
from grpo_core.types import Completion, Int32, Packing

_SIZES = ((9, 5), (9, 4), (9, 6), (3, 7))  # tokens of prompt and completion; the first three share their prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Completions of random ids, and the log-probabilities [R] of the tokens of each, by the model itself."""

    completions: tuple[Completion, ...]
    logprobs: tuple[Tensor, ...]
    scale: float  # standard deviation of the logits


@torch.no_grad()
def prove_packing(policy: Policy, wanted: Packing) -> Packing:
    """``wanted``, or the next layout of the fallback order in which ``policy`` computes what its model does on each
    sequence alone. With weights that give no numbers nothing can be compared, and the configuration decides.

    Raises:
        ModelError: there is none, e.g. because the model is not causal, or no gradient reaches what is trained.
    """
    first = usable_packing(policy.decoder, wanted)
    sample = _sample(policy)
    if not sample.scale > 0 or not all(bool(torch.isfinite(each).all()) for each in sample.logprobs):
        return first
    problem = ""
    for packing in PACKINGS[PACKINGS.index(first) :]:
        problem = _problem(policy, sample, packing)
        if not problem:
            return packing
        logger.warning(
            "model %s (%s): not trained in layout %r: %s", policy.name, policy.architecture, packing, problem
        )
    raise ModelError(
        f"model {policy.name!r} of architecture {policy.architecture!r} cannot be trained: even a padded row for each "
        f"sequence is not what the model computes ({problem}); use a causal language model whose logits are its head's"
    )


def _problem(policy: Policy, sample: _Sample, packing: Packing) -> str:
    """Why ``packing`` is not exact; empty where it is. This is the pass of training, with what its backward pass keeps.

    Raises:
        ModelError: no gradient reaches what is trained.
    """
    batch = build_packed_batch(
        pack_completions(sample.completions, packing), sample.completions, packing, policy.device
    )
    try:
        with torch.enable_grad():
            found = score_chosen(policy.decoder, policy.head, batch).logprobs
    except Exception as error:  # another project's model, under inputs that it may not know
        return f"it raises {type(error).__name__}: {first_line(error)}"
    if not found.requires_grad and any(each.requires_grad for each in policy.decoder.parameters()):
        raise ModelError(
            f"model {policy.name!r} of architecture {policy.architecture!r} cannot be trained like this: no gradient "
            "reaches the trained weights, as its layers have a backward pass of their own; use "
            "training.method=full if it is not set, or another model"
        )
    expected = torch.cat([sample.logprobs[index] for index in batch.order])
    gap = difference(policy, found.detach().double().cpu(), expected, sample.scale)
    return f"log-probabilities are {gap}" if gap else ""


def _sample(policy: Policy) -> _Sample:
    ids = ordinary_ids(policy)
    rng = np.random.default_rng(0)
    shared = rng.choice(ids, _SIZES[0][0])
    prompts = [shared if num == len(shared) else rng.choice(ids, num) for num, _ in _SIZES]
    completions = tuple(
        _completion(prompt, rng.choice(ids, num)) for prompt, (_, num) in zip(prompts, _SIZES, strict=True)
    )
    logits = [_predicting(policy, completion) for completion in completions]
    logprobs = tuple(
        each.log_softmax(dim=-1).gather(-1, torch.from_numpy(completion.completion_ids.astype(np.int64))[:, None])[:, 0]
        for each, completion in zip(logits, completions, strict=True)
    )
    return _Sample(completions, logprobs, float(torch.cat(logits).std(dim=-1).mean()))


def _predicting(policy: Policy, completion: Completion) -> Tensor:
    """Logits [R, V] that predict each token of ``completion``."""
    ids = np.concatenate([completion.prompt_ids, completion.completion_ids])
    return own_logits(policy, ids)[len(completion.prompt_ids) - 1 : -1]


def _completion(prompt_ids: Int32, completion_ids: Int32) -> Completion:
    num = len(completion_ids)
    return Completion(
        prompt_ids=prompt_ids,
        completion_ids=completion_ids,
        completion_mask=np.ones(num, dtype=np.bool_),
        sampling_logprobs=np.zeros(num, dtype=np.float32),
        policy_version=0,
        temperature=1.0,
        finish_reason="length",
    )
