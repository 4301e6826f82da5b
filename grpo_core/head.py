"""Log-probability and entropy of chosen tokens from the hidden states that predict them: the model's head.

Logits are computed chunk by chunk and never kept. With a frozen head the forward pass also computes what the backward
pass needs, a vector of the hidden size per token, while the chunk's probabilities are there; with a trainable one the
backward pass computes the chunks again. A token with a support takes only the rows of it: those of all tokens of its
chunk together, or one by one where supports are so narrow that this is less work.

Legend: C chosen tokens, E hidden size, V vocabulary, c tokens of a chunk, U rows of the head that it needs, A allowed
ids over all tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grpo_core.dense import linear

MAX_CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 26}  # c * V
MIN_CHUNK_TOKENS = 256  # fewer would read the head's weight for too little
GATHER_COST = 150  # a row fetched for one token takes as long as so many products with a row that is there


@dataclass(frozen=True, slots=True)
class Support:
    """The ids that some tokens could be drawn from; the others were drawn from the whole vocabulary."""

    tokens: Tensor  # [S] int64, ascending: the chosen tokens that have one
    ids: Tensor  # [A] int64, end to end
    sizes: Tensor  # [S] int64

    def part(self, first: int, last: int) -> Support:
        """Of ``tokens[first:last]``."""
        start, size = int(self.sizes[:first].sum()), int(self.sizes[first:last].sum())
        return Support(self.tokens[first:last], self.ids[start : start + size], self.sizes[first:last])


@dataclass(frozen=True, slots=True)
class ChosenTokens:
    """What was drawn, and from what: logits over the temperature, renormalised over the support."""

    targets: Tensor  # [C] int64
    temperatures: Tensor  # [C] float32
    support: Support | None  # None: all were drawn from the whole vocabulary


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probability and entropy, in nats, of the distribution that each chosen token was drawn from. [C] each."""

    logprobs: Tensor
    entropy: Tensor


def score_tokens(
    states: Tensor, head: nn.Module, chosen: ChosenTokens, *, entropy_gradient: bool = False
) -> TokenScores:
    """Scores of ``chosen`` from the ``states`` [C, E] that predict them.

    ``entropy`` carries a gradient only if asked to: it costs another product with the head.
    """
    assert isinstance(head, nn.Linear)
    logprobs, entropy = _Scores.apply(states, head.weight, head.bias, chosen, entropy_gradient)  # pyright: ignore[reportGeneralTypeIssues]
    return TokenScores(logprobs, entropy if entropy_gradient else entropy.detach())


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chosen: ChosenTokens,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(states.dtype, torch.float32)
        logprobs, entropy = states.new_empty(len(states), dtype=dtype), states.new_empty(len(states), dtype=dtype)
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        is_trained = wants_weight or wants_bias
        keeps_gradients = wants_states and not is_trained
        by_logprob = states.new_empty(states.shape, dtype=dtype) if keeps_gradients else None
        by_entropy = torch.empty_like(by_logprob) if by_logprob is not None and entropy_gradient else None
        for chunk in _chunks(chosen, weight):
            rows = chunk.rows
            found = chunk.evaluate(states[rows], weight, bias)
            logprobs[rows], entropy[rows] = found.logprobs, found.entropy
            if by_logprob is not None:
                by_logprob[rows] = chunk.to_states(found.by_logprob(), weight)
            if by_entropy is not None:
                by_entropy[rows] = chunk.to_states(found.by_entropy(), weight)
        if is_trained:
            ctx.save_for_backward(states, weight, bias)
            device = states.device.type
            # The backward pass computes the logits again, in the precision that they had.
            ctx.autocast = torch.autocast(
                device, torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
            )
        else:
            ctx.save_for_backward(by_logprob, by_entropy)
        ctx.chosen, ctx.is_trained, ctx.dtype = chosen, is_trained, states.dtype
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(gradient is None for gradient in gradients):
            return None, None, None, None, None
        to_logprobs, to_entropy = gradients
        if ctx.is_trained:
            with ctx.autocast:
                return (*_recomputed(ctx, to_logprobs, to_entropy), None, None)
        by_logprob, by_entropy = ctx.saved_tensors
        result = to_logprobs[:, None] * by_logprob if to_logprobs is not None else torch.zeros_like(by_logprob)
        if to_entropy is not None and by_entropy is not None:
            result += to_entropy[:, None] * by_entropy
        return result.to(ctx.dtype), None, None, None, None


def _recomputed(
    ctx: Any, to_logprobs: Tensor | None, to_entropy: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of states, weight and bias, from the logits once more."""
    states, weight, bias = ctx.saved_tensors
    wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    to_states = torch.zeros_like(states) if wants_states else None
    to_weight = torch.zeros_like(weight) if wants_weight else None
    to_bias = torch.zeros_like(bias) if wants_bias else None
    for chunk in _chunks(ctx.chosen, weight):
        rows = chunk.rows
        found = chunk.evaluate(states[rows], weight, bias)
        to_logits = torch.zeros_like(found.logits)
        if to_logprobs is not None:
            to_logits += chunk.scale(to_logprobs[rows], found.by_logprob())
        if to_entropy is not None:
            to_logits += chunk.scale(to_entropy[rows], found.by_entropy())
        if to_states is not None:
            to_states[rows] = chunk.to_states(to_logits, weight).to(states.dtype)
        if to_weight is not None:
            chunk.add_to_weight(to_weight, to_logits, states[rows])
        if to_bias is not None:
            chunk.add_to_bias(to_bias, to_logits)
    return to_states, to_weight, to_bias


@dataclass(slots=True)
class _Distributions:
    """Of the tokens of one chunk. Gradients are with respect to the logits before the temperature."""

    logits: Tensor  # scaled, less the largest of each token
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


class _Block:
    """Tokens [c] times the rows [U] of the head that any of them needs."""

    def __init__(self, rows: Tensor | slice, chosen: ChosenTokens, support: Support | None) -> None:
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

    def evaluate(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> _Distributions:
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
        return _Distributions(
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
        return factors[:, None] * entries

    def to_states(self, to_logits: Tensor, weight: Tensor) -> Tensor:
        used = weight if self._ids is None else weight[self._ids]
        return linear(to_logits.to(weight.dtype), used.t())

    def add_to_weight(self, to_weight: Tensor, to_logits: Tensor, states: Tensor) -> None:
        product = to_logits.to(states.dtype).t() @ states
        if self._ids is None:
            to_weight += product
        else:
            to_weight.index_add_(0, self._ids, product.to(to_weight.dtype))

    def add_to_bias(self, to_bias: Tensor, to_logits: Tensor) -> None:
        sums = to_logits.sum(dim=0).to(to_bias.dtype)
        if self._ids is None:
            to_bias += sums
        else:
            to_bias.index_add_(0, self._ids, sums)


class _Ragged:
    """Tokens [c], each times the rows of its own support only: A entries."""

    def __init__(self, rows: Tensor, chosen: ChosenTokens, support: Support) -> None:
        self.rows = rows
        self._num = len(rows)
        self._ids = support.ids
        self._owners = torch.arange(len(rows), device=rows.device).repeat_interleave(support.sizes)  # [A]
        self._temperatures = chosen.temperatures[rows][self._owners]
        self._is_target = torch.nonzero(support.ids == chosen.targets[rows][self._owners])[:, 0]  # [c]

    def evaluate(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> _Distributions:
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
        return _Distributions(
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


def _chunks(chosen: ChosenTokens, weight: Tensor) -> Iterator[_Block | _Ragged]:
    """All of ``chosen``, each token in one chunk."""
    most = MAX_CHUNK_LOGITS["cuda" if weight.device.type == "cuda" else "cpu"]
    size = max(MIN_CHUNK_TOKENS, most // len(weight))
    num, support = len(chosen.targets), chosen.support
    if support is None:
        for first in range(0, num, size):
            yield _Block(slice(first, first + size), chosen, None)
        return
    is_free = torch.ones(num, dtype=torch.bool, device=weight.device)
    is_free[support.tokens] = False
    for rows in torch.nonzero(is_free)[:, 0].split(size):
        if len(rows):
            yield _Block(rows, chosen, None)
    for first in range(0, len(support.tokens), size):
        part = support.part(first, first + size)
        num_rows = len(torch.unique(part.ids))
        is_narrow = len(part.ids) * GATHER_COST < len(part.tokens) * num_rows
        yield (_Ragged if is_narrow else _Block)(part.tokens, chosen, part)
