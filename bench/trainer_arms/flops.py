"""The floating-point operations that a training step needs at least, and the peak rate of the machine.

Frozen weights have no gradient, so a linear map costs as much backward as forward; scores and values of attention cost
twice as much backward. In the last layer, a token that predicts nothing needs keys and values only. A pair is a token
and one that it attends to. Adapters, norms and rotary embeddings are left out: below 2 %.

Legend: T tokens, P prompt tokens, G completions, R completion tokens, C chosen tokens, E hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.model_shapes import SHAPES
from bench.trainer_arms.batches import BatchShape
from grpo_core.kernels.linear import linear
from pytest_grpo.measuring.sampling.clock import now


@dataclass(frozen=True, slots=True)
class StepFlops:
    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


def step_flops(preset: str, shape: BatchShape) -> StepFlops:
    """The FLOPs of loss and gradient with shared prompts. The last token of a completion predicts nothing."""
    sizes = SHAPES[preset]
    hidden, num_layers = sizes.hidden_size, sizes.num_layers
    key_size = hidden // sizes.num_heads * sizes.num_key_value_heads
    key_weights, other_weights = 2 * hidden * key_size, 2 * hidden * hidden + 3 * hidden * sizes.intermediate_size
    prompt, rest = shape.num_prompt_tokens, shape.num_tokens - 1
    num_tokens = shape.num_groups * (prompt + shape.group_size * rest)
    num_predicting = shape.num_groups * (1 + shape.group_size * rest)
    below = shape.group_size * (rest * prompt + rest * (rest + 1) / 2)
    num_pairs = shape.num_groups * (prompt * (prompt + 1) / 2 + below)
    num_last_pairs = shape.num_groups * (prompt + below)
    linears = 2.0 * num_layers * num_tokens * key_weights
    linears += 2.0 * ((num_layers - 1) * num_tokens + num_predicting) * other_weights
    attention = 4.0 * ((num_layers - 1) * num_pairs + num_last_pairs) * hidden
    head = 2.0 * shape.num_groups * shape.group_size * shape.num_tokens * hidden * sizes.vocab_size
    # Nothing trained lies below the first layer's queries, keys and values, nor in its keys.
    unneeded = 2.0 * num_tokens * (hidden * hidden + key_weights) + 2.0 * num_pairs * hidden
    return StepFlops(linears + attention + head, linears - unneeded + 2 * attention + head)


def matrix_rate(num_threads: int) -> float:
    """FLOP per second of a large float32 matrix product, the best of ten runs."""
    torch.set_num_threads(num_threads)
    x, weight = torch.ones(4096, 1024), torch.ones(1024, 1024)
    best = float("inf")
    for _ in range(10):
        start = now()
        linear(x, weight)
        best = min(best, now() - start)
    return 2 * 4096 * 1024 * 1024 / best
