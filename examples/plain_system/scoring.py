"""Completions in padded rows of one forward pass, and GRPO's loss on them. Legend: B rows, R tokens of a completion."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from pytest_grpo import Completion

CLIP = 0.2


@dataclass(frozen=True)
class Example:
    """One completion to train on."""

    prompt_ids: np.ndarray
    completion: Completion
    advantage: float


def examples_of(batch):
    """Of all completions of a ``TrainBatch``, in order."""
    return [
        Example(group.prompt_ids, completion, float(advantage))
        for group in batch.groups
        for completion, advantage in zip(group.completions, group.advantages, strict=True)
    ]


def split(examples, max_tokens):
    """Micro-batches of at most ``max_tokens`` tokens, padding included, or of one example that has more."""
    parts, longest = [[]], 0
    for example in examples:
        length = len(example.prompt_ids) + len(example.completion.completion_ids)
        if parts[-1] and max(longest, length) * (len(parts[-1]) + 1) > max_tokens:
            parts.append([])
            longest = 0
        parts[-1].append(example)
        longest = max(longest, length)
    return parts


def logprobs_of(model, examples):
    """The log-probabilities [R] of each completion, from one pass. Rows are padded on the right: no token sees it."""
    rows = [np.concatenate([example.prompt_ids, example.completion.completion_ids]) for example in examples]
    ids = pad_sequence([torch.tensor(row).long() for row in rows], batch_first=True).to(model.device)
    scores = model(input_ids=ids, use_cache=False).logits.float().log_softmax(dim=-1)  # [B, T, V]
    chosen = scores[:, :-1].gather(2, ids[:, 1:, None])[..., 0]  # [B, T - 1], of the token after each place
    return [
        chosen[at, len(example.prompt_ids) - 1 : len(row) - 1]
        for at, (example, row) in enumerate(zip(examples, rows, strict=True))
    ]


def losses_of(examples, logprobs, kl_coefficient):
    """The loss of each chosen token, of all examples in one tensor."""
    losses = []
    for example, new in zip(examples, logprobs, strict=True):
        completion = example.completion
        ratio = (new - torch.from_numpy(completion.sampling_logprobs).to(new)).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        loss = -torch.minimum(ratio * example.advantage, clipped * example.advantage)
        if kl_coefficient:
            difference = torch.from_numpy(completion.ref_logprobs).to(new) - new
            loss = loss + kl_coefficient * (difference.exp() - difference - 1)
        losses.append(loss[torch.from_numpy(completion.completion_mask).to(new.device)])
    return torch.cat(losses)
