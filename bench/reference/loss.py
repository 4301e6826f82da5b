"""The loss of GRPO with DAPO's mean over tokens, and the k3 estimate of the KL divergence.

Shao et al. 2024, "DeepSeekMath", eq. 3 and 4; Yu et al. 2025, "DAPO", eq. 8.

Legend: B answers, P prompt tokens, R tokens of an answer, C chosen tokens, W the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .model import Model


@dataclass(frozen=True)
class Answer:
    """A prompt, one completion of it, and its advantage. ``is_chosen`` is False for tokens without a loss."""

    prompt_ids: Tensor  # [P]
    ids: Tensor  # [R]
    is_chosen: Tensor  # [R]
    sampling_logprobs: Tensor  # [R]
    ref_logprobs: Tensor  # [R]
    advantage: float


def token_logprobs(model: Model, answers: Sequence[Answer]) -> list[Tensor]:
    """The log-probabilities [R] of each answer's tokens: one padded row per answer, in one forward pass."""
    rows = [torch.cat([answer.prompt_ids, answer.ids]) for answer in answers]
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([row, row.new_zeros(width - len(row))]) for row in rows])
    hidden = model.hidden(ids)
    logprobs = []
    for place, answer in enumerate(answers):
        first = len(answer.prompt_ids) - 1  # this token predicts the first one of the answer
        logits = model.logits(hidden[place, first : first + len(answer.ids)])
        logprobs.append(logits.log_softmax(dim=-1).gather(1, answer.ids[:, None])[:, 0])
    return logprobs


def token_losses(logprobs: Tensor, answer: Answer, *, clip: float, kl_coefficient: float) -> Tensor:
    """-min(r A, clip(r) A) + kl_coefficient * KL of each chosen token [C], from the log-probabilities [R]."""
    chosen = answer.is_chosen
    ratio = (logprobs[chosen] - answer.sampling_logprobs[chosen]).exp()
    policy = -torch.minimum(ratio * answer.advantage, ratio.clamp(1 - clip, 1 + clip) * answer.advantage)
    difference = answer.ref_logprobs[chosen] - logprobs[chosen]
    return policy + kl_coefficient * (difference.exp() - difference - 1)


def loss(
    logprobs: Sequence[Tensor], answers: Sequence[Answer], num_tokens: int, *, clip: float, kl_coefficient: float
) -> Tensor:
    """The sum over the chosen tokens of ``answers``, over ``num_tokens``: those of the whole step."""
    parts = [
        token_losses(row, answer, clip=clip, kl_coefficient=kl_coefficient).sum()
        for row, answer in zip(logprobs, answers, strict=True)
    ]
    return torch.stack(parts).sum() / num_tokens
