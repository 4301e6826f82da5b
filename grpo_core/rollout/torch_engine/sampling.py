"""Draw one token per row, and say exactly which distribution it was drawn from.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_core.types import Int32


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's token, its log-probability (nats) after temperature, constraint and top-p, and its support.

    ``support`` holds the ids that could have been drawn, in ascending order; None for the whole vocabulary.
    """

    token: int
    logprob: float
    support: Int32 | None


def draw_tokens(
    logits: Tensor,
    temperatures: Sequence[float],
    top_ps: Sequence[float],
    uniforms: Sequence[float],
    allowed: Sequence[Sequence[int] | None],
) -> list[Draw]:
    """Sample every row of ``logits`` [B, V] by the inverse of its cumulative distribution at its ``uniform``.

    One uniform per row, so that a row's token depends on nothing else in the batch. Top-p keeps the most probable
    tokens until their mass reaches ``top_p`` (at least one) and renormalises over them (Holtzman et al. 2019).
    """
    device = logits.device
    scaled = logits.double() / torch.tensor(temperatures, dtype=torch.float64, device=device)[:, None]
    if any(ids is not None for ids in allowed):
        scaled = scaled.masked_fill(~_allowed_mask(allowed, logits.shape).to(device), float("-inf"))
    probabilities = scaled.softmax(dim=-1)
    if min(top_ps) < 1.0:
        probabilities = _keep_nucleus(probabilities, torch.tensor(top_ps, dtype=torch.float64, device=device))
    cumulative = probabilities.cumsum(dim=-1)
    totals = cumulative[:, -1:]
    points = torch.tensor(uniforms, dtype=torch.float64, device=device)[:, None] * totals
    tokens = torch.searchsorted(cumulative, points, right=True)
    logprobs = (probabilities.gather(-1, tokens) / totals).log()[:, 0].tolist()
    supports = [_support(*row) for row in zip(probabilities, top_ps, allowed, strict=True)]
    return [
        Draw(token, logprob, support)
        for token, logprob, support in zip(tokens[:, 0].tolist(), logprobs, supports, strict=True)
    ]


def _allowed_mask(allowed: Sequence[Sequence[int] | None], shape: torch.Size) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, ids in enumerate(allowed):
        if ids is None:
            mask[row] = True
        else:
            mask[row, list(ids)] = True
    return mask


def _keep_nucleus(probabilities: Tensor, top_ps: Tensor) -> Tensor:
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    mass_before = ordered.cumsum(dim=-1) - ordered
    dropped = mass_before >= top_ps[:, None]
    dropped[:, 0] = False
    return probabilities.scatter(-1, order, ordered.masked_fill(dropped, 0.0))


def _support(probabilities: Tensor, top_p: float, allowed: Sequence[int] | None) -> Int32 | None:
    if top_p < 1.0:
        return torch.nonzero(probabilities)[:, 0].cpu().numpy().astype(np.int32)
    # Not the nonzero ones: what is too improbable to draw now can become probable before the loss is taken.
    return None if allowed is None else np.array(sorted(allowed), dtype=np.int32)
