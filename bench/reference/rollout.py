"""Sampling in plain torch: the completions of one prompt together, token by token, with a cache of keys and values.

Legend: P prompt tokens, G completions, R completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .model import KeyValueCache, Model


@torch.no_grad()
def sample(model: Model, prompt_ids: Tensor, group_size: int, num_tokens: int, draw: torch.Generator | None) -> Tensor:
    """[G, R] ids: ``num_tokens`` of each completion, at temperature 1. Without ``draw``, the most probable ones."""
    cache = KeyValueCache()
    ids = prompt_ids.expand(group_size, -1)
    chosen = []
    for _ in range(num_tokens):
        probabilities = model.logits(model.hidden(ids, cache)[:, -1]).softmax(dim=-1)
        if draw is None:
            ids = probabilities.argmax(dim=-1, keepdim=True)
        else:
            ids = torch.multinomial(probabilities, 1, generator=draw)
        chosen.append(ids)
    return torch.cat(chosen, dim=1)
