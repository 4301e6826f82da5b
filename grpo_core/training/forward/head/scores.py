"""Scores of chosen tokens from the hidden states that predict them. Legend: C chosen tokens, E hidden size."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from grpo_core.training.forward.head.chosen import ChosenTokens, TokenScores
from grpo_core.training.forward.head.chunks import chunks

TimeGradient = Callable[[], AbstractContextManager[None]]
"""Is open while a gradient is computed."""


def score_tokens(
    states: Tensor,
    head: nn.Module,
    chosen: ChosenTokens,
    *,
    entropy_gradient: bool = False,
    time_gradient: TimeGradient = nullcontext,
) -> TokenScores:
    """Scores of ``chosen`` from the ``states`` [C, E] that predict them.

    ``entropy`` carries a gradient only with ``entropy_gradient``: it costs another product with the head. The gradient
    of a frozen head is computed here, while its logits are there, in ``time_gradient``.
    """
    assert isinstance(head, nn.Linear)
    inputs = (states, head.weight, head.bias, chosen, entropy_gradient, time_gradient)
    logprobs, entropy = _Scores.apply(*inputs)  # pyright: ignore[reportGeneralTypeIssues]
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
        time_gradient: TimeGradient,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(states.dtype, torch.float32)
        logprobs, entropy = states.new_empty(len(states), dtype=dtype), states.new_empty(len(states), dtype=dtype)
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        is_trained = wants_weight or wants_bias
        keeps_gradients = wants_states and not is_trained
        by_logprob = states.new_empty(states.shape, dtype=dtype) if keeps_gradients else None
        by_entropy = torch.empty_like(by_logprob) if by_logprob is not None and entropy_gradient else None
        for chunk in chunks(chosen, weight):
            rows = chunk.rows
            found = chunk.evaluate(states[rows], weight, bias)
            logprobs[rows], entropy[rows] = found.logprobs, found.entropy
            if by_logprob is not None:
                with time_gradient():
                    by_logprob[rows] = chunk.to_states(found.by_logprob(), weight)
                    if by_entropy is not None:
                        by_entropy[rows] = chunk.to_states(found.by_entropy(), weight)
        if is_trained:
            ctx.save_for_backward(states, weight, bias)
            device = states.device.type
            # The backward pass recomputes the logits in the same precision.
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
            return None, None, None, None, None, None
        to_logprobs, to_entropy = gradients
        if ctx.is_trained:
            with ctx.autocast:
                return (*_recomputed(ctx, to_logprobs, to_entropy), None, None, None)
        by_logprob, by_entropy = ctx.saved_tensors
        result = to_logprobs[:, None] * by_logprob if to_logprobs is not None else torch.zeros_like(by_logprob)
        if to_entropy is not None and by_entropy is not None:
            result += to_entropy[:, None] * by_entropy
        return result.to(ctx.dtype), None, None, None, None, None


def _recomputed(
    ctx: Any, to_logprobs: Tensor | None, to_entropy: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of states, weight and bias, from recomputed logits."""
    states, weight, bias = ctx.saved_tensors
    wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    to_states = torch.zeros_like(states) if wants_states else None
    to_weight = torch.zeros_like(weight) if wants_weight else None
    to_bias = torch.zeros_like(bias) if wants_bias else None
    for chunk in chunks(ctx.chosen, weight):
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
