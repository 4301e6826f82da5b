"""FlexAttention over a prefix tree beside SDPA with a mask: from which length on it pays, and how often it compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from bench.gpu_study.row import Row, Work
from bench.gpu_study.shape import SHAPES, Shape
from grpo_core.schedule.accounting.compilations import Compilations
from grpo_core.training.forward.prefix_tree import PrefixTree, build_tree
from grpo_core.training.forward.tree_attention import (
    build_block_mask,
    compiled_flex_attention,
    flex_tree_attention,
    tree_mask,
)
from pytest_grpo.measuring.sampling.clock import now

NUM_ROUNDS = 5
GROUP_SIZE = 8
NUM_NEW_LENGTHS = 8
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def measure_attention(work: Work) -> Iterator[Row]:
    """Forward and backward of one layer, eight completions behind a prompt of a quarter of the tokens. On a CPU, where
    FlexAttention has no backward pass, forward only."""
    device = torch.device(work.device)
    crossover: int | None = None
    for num_tokens in work.attention_tokens:
        tree = group_tree(num_tokens)
        inputs = random_inputs(SHAPES[work.shape], tree.num_tokens, device, getattr(torch, work.dtype))
        arms = {"flex": by_flex(tree, device), "sdpa": by_sdpa(tree, device)}
        gap = difference(arms["flex"], arms["sdpa"], inputs)
        milliseconds = {name: fastest_ms(attend, inputs) for name, attend in arms.items()}
        for name, took_ms in milliseconds.items():
            yield Row(
                name=f"attention_{name}_ms_{num_tokens}", value=took_ms, unit="ms", note=f"they differ by {gap:.0e}"
            )
        if crossover is None and milliseconds["flex"] <= milliseconds["sdpa"]:
            crossover = num_tokens
    longest = max(work.attention_tokens)
    note = "" if crossover is not None else f"at {longest} tokens SDPA is still faster"
    yield Row(name="flex_crossover_tokens", value=crossover, unit="tokens", note=note)
    yield compilations_row(work)


def compilations_row(work: Work) -> Row:
    """Lengths that were never seen, between the two shortest that were measured."""
    device = torch.device(work.device)
    shortest = min(work.attention_tokens)
    compilations = Compilations()
    for number in range(NUM_NEW_LENGTHS):
        tree = group_tree(shortest + (number + 1) * shortest // NUM_NEW_LENGTHS - 1)
        inputs = random_inputs(SHAPES[work.shape], tree.num_tokens, device, getattr(torch, work.dtype))
        by_flex(tree, device)(*inputs)
    return Row(
        name="flex_compilations_per_new_length",
        value=compilations.num_new() / NUM_NEW_LENGTHS,
        note="not compiled on a CPU" if device.type != "cuda" else "",
    )


def group_tree(num_tokens: int) -> PrefixTree:
    """About ``num_tokens`` in the layout."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(1, 100, num_tokens // 4, dtype=np.int32)
    rest = (num_tokens - len(prompt)) // GROUP_SIZE
    answers = [rng.integers(1, 100, rest, dtype=np.int32) for _ in range(GROUP_SIZE)]
    return build_tree([np.concatenate([prompt, answer]) for answer in answers])


def random_inputs(shape: Shape, num_tokens: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Queries [1, H, T, D], keys and values [1, K, T, D], on a GPU with gradients."""
    generator = torch.Generator(device).manual_seed(0)
    heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
    draw = functools.partial(
        torch.randn, generator=generator, device=device, dtype=dtype, requires_grad=device.type == "cuda"
    )
    return tuple(draw(1, num, num_tokens, shape.head_size) for num in heads)


def by_flex(tree: PrefixTree, device: torch.device) -> Attend:
    attention = compiled_flex_attention() if device.type == "cuda" else flex_attention
    mask = build_block_mask(tree, device)
    return lambda queries, keys, values: flex_tree_attention(queries, keys, values, _scaling(queries), mask, attention)


def by_sdpa(tree: PrefixTree, device: torch.device) -> Attend:
    mask = tree_mask(tree, device)
    return lambda queries, keys, values: F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=_scaling(queries), enable_gqa=queries.shape[1] != keys.shape[1]
    ).transpose(1, 2)


def difference(one: Attend, other: Attend, inputs: tuple[Tensor, ...]) -> float:
    """Of the outputs, at most."""
    with torch.no_grad():
        return float((one(*inputs) - other(*inputs)).abs().max())


def fastest_ms(attend: Attend, inputs: tuple[Tensor, ...]) -> float:
    """Of ``NUM_ROUNDS`` after one that compiles; with the backward pass where the inputs have gradients."""
    took: list[float] = []
    for _ in range(NUM_ROUNDS + 1):
        start = now()
        output = attend(*inputs)
        if output.requires_grad:
            torch.autograd.grad(output, inputs, torch.ones_like(output))
        took.append((now() - start) * 1e3)
    return min(took[1:])


def _scaling(queries: Tensor) -> float:
    return queries.shape[-1] ** -0.5
