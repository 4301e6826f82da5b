"""Chosen tokens in chunks: the distributions of a chunk, and the gradients that its logits pass on.

Legend: E hidden size, V vocabulary, c tokens of a chunk, U rows of the head that it needs, A allowed ids over all
tokens of a chunk. An entry is a token with one row of the head: [c, V], [c, U] or [A] of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_core.kernels.linear import linear
from grpo_core.training.forward.head.chosen import ChosenTokens, SupportPart

MAX_CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 26}  # c * V
MIN_CHUNK_TOKENS = 256  # smaller chunks would be bound by reading the head's weight
GATHER_COST = 150  # fetching a row for one token costs as much as this many dot products with a row in cache


@dataclass(slots=True)
class Distributions:
    """The distributions of the tokens of one chunk. Gradients are with respect to the logits before the temperature."""

    logits: Tensor  # over the temperature, minus each token's maximum
    probabilities: Tensor
    log_sums: Tensor  # of exp(logits), per entry
    logprobs: Tensor  # [c]
    entropy: Tensor  # [c]
    entropies: Tensor  # per entry
    is_target: Tensor  # indices of the entries that were drawn, in the flat ``logits``
    temperatures: Tensor  # per entry

    def by_logprob(self) -> Tensor:
        """(1 - p) for the token drawn, -p for the others, over the temperature."""
        result = self.probabilities.neg()
        result.view(-1)[self.is_target] += 1.0
        return result.div_(self.temperatures)

    def by_entropy(self) -> Tensor:
        """-p (log p + H), over the temperature."""
        result = self.logits - self.log_sums
        return result.add_(self.entropies).mul_(self.probabilities).neg_().div_(self.temperatures)


class Block:
    """A chunk whose tokens [c] share the rows [U] of the head that any of them needs."""

    def __init__(self, rows: Tensor | slice, chosen: ChosenTokens, support: SupportPart | None) -> None:
        self.rows = rows
        self._temperatures = chosen.temperatures[rows]
        self._targets = chosen.targets[rows]
        self._ids: Tensor | None = None
        self._banned: Tensor | None = None
        if support is not None:
            ids, places = torch.unique(support.ids, return_inverse=True)
            self._ids = ids
            self._banned = torch.ones(len(support.tokens), len(ids), dtype=torch.bool, device=ids.device)
            owners = torch.arange(len(support.tokens), device=ids.device).repeat_interleave(support.sizes)
            self._banned[owners, places] = False
            self._targets = torch.searchsorted(ids, self._targets)

    def evaluate(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> Distributions:
        """With entries [c, U], from ``states`` [c, E] and the head's whole ``weight`` [V, E] and ``bias`` [V]."""
        if self._ids is not None:
            weight, bias = weight[self._ids], bias[self._ids] if bias is not None else None
        logits = linear(states, weight, bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        temperatures = self._temperatures[:, None].to(logits.dtype)
        logits.div_(temperatures)
        if self._banned is not None:
            logits.masked_fill_(self._banned, torch.finfo(logits.dtype).min / 2)
        logits.sub_(logits.amax(dim=-1, keepdim=True))
        probabilities = logits.exp()
        sums = probabilities.sum(dim=-1, keepdim=True)
        probabilities.div_(sums)
        log_sums = sums.log()
        entropies = log_sums - torch.linalg.vecdot(probabilities, logits)[:, None]
        drawn = logits.gather(-1, self._targets[:, None])
        first = torch.arange(len(logits), device=logits.device) * logits.shape[1]
        return Distributions(
            logits,
            probabilities,
            log_sums,
            (drawn - log_sums)[:, 0],
            entropies[:, 0],
            entropies,
            first + self._targets,
            temperatures,
        )

    def scale(self, factors: Tensor, entries: Tensor) -> Tensor:
        """``entries`` times the factor of their token, ``factors`` [c]."""
        return factors[:, None] * entries

    def to_states(self, to_logits: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the states [c, E] from that of the logits, by entry."""
        used = weight if self._ids is None else weight[self._ids]
        return linear(to_logits.to(weight.dtype), used.t())

    def add_to_weight(self, to_weight: Tensor, to_logits: Tensor, states: Tensor) -> None:
        """Add to the gradient of the weight [V, E]."""
        product = to_logits.to(states.dtype).t() @ states
        if self._ids is None:
            to_weight += product
        else:
            to_weight.index_add_(0, self._ids, product.to(to_weight.dtype))

    def add_to_bias(self, to_bias: Tensor, to_logits: Tensor) -> None:
        """Add to the gradient of the bias [V]."""
        sums = to_logits.sum(dim=0).to(to_bias.dtype)
        if self._ids is None:
            to_bias += sums
        else:
            to_bias.index_add_(0, self._ids, sums)


class Ragged:
    """A chunk whose tokens [c] use the rows of their own support only: A entries. The same methods as ``Block``."""

    def __init__(self, rows: Tensor, chosen: ChosenTokens, support: SupportPart) -> None:
        self.rows = rows
        self._num = len(rows)
        self._ids = support.ids
        self._owners = torch.arange(len(rows), device=rows.device).repeat_interleave(support.sizes)  # [A]
        self._temperatures = chosen.temperatures[rows][self._owners]
        self._is_target = torch.nonzero(support.ids == chosen.targets[rows][self._owners])[:, 0]  # [c]

    def evaluate(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> Distributions:
        logits = torch.linalg.vecdot(states[self._owners], weight[self._ids])
        if bias is not None:
            logits = logits + bias[self._ids]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        temperatures = self._temperatures.to(logits.dtype)
        logits = logits / temperatures
        largest = logits.new_full((self._num,), float("-inf")).scatter_reduce(0, self._owners, logits, "amax")
        logits = logits - largest[self._owners]
        probabilities = logits.exp()
        sums = self._sum(probabilities)
        probabilities = probabilities / sums[self._owners]
        log_sums = sums.log()
        entropy = log_sums - self._sum(probabilities * logits)
        return Distributions(
            logits,
            probabilities,
            log_sums[self._owners],
            logits[self._is_target] - log_sums,
            entropy,
            entropy[self._owners],
            self._is_target,
            temperatures,
        )

    def _sum(self, entries: Tensor) -> Tensor:
        return entries.new_zeros(self._num).index_add_(0, self._owners, entries)

    def scale(self, factors: Tensor, entries: Tensor) -> Tensor:
        return factors[self._owners] * entries

    def to_states(self, to_logits: Tensor, weight: Tensor) -> Tensor:
        weighted = to_logits.to(weight.dtype)[:, None] * weight[self._ids]
        return weighted.new_zeros(self._num, weight.shape[1]).index_add_(0, self._owners, weighted)

    def add_to_weight(self, to_weight: Tensor, to_logits: Tensor, states: Tensor) -> None:
        to_weight.index_add_(0, self._ids, (to_logits[:, None] * states[self._owners]).to(to_weight.dtype))

    def add_to_bias(self, to_bias: Tensor, to_logits: Tensor) -> None:
        to_bias.index_add_(0, self._ids, to_logits.to(to_bias.dtype))


def chunks(chosen: ChosenTokens, weight: Tensor) -> Iterator[Block | Ragged]:
    """Split ``chosen`` into chunks; each token is in exactly one."""
    most = MAX_CHUNK_LOGITS["cuda" if weight.device.type == "cuda" else "cpu"]
    size = max(MIN_CHUNK_TOKENS, most // len(weight))
    num, support = len(chosen.targets), chosen.support
    if support is None:
        for first in range(0, num, size):
            yield Block(slice(first, first + size), chosen, None)
        return
    is_free = torch.ones(num, dtype=torch.bool, device=weight.device)
    is_free[support.tokens] = False
    for rows in torch.nonzero(is_free)[:, 0].split(size):
        if len(rows):
            yield Block(rows, chosen, None)
    for first in range(0, len(support.tokens), size):
        part = support.part(first, first + size)
        num_rows = len(torch.unique(part.ids))
        is_narrow = len(part.ids) * GATHER_COST < len(part.tokens) * num_rows
        yield (Ragged if is_narrow else Block)(part.tokens, chosen, part)
