from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo_core.rollout.torch_engine.forward.attention_math import (
    CAUSAL_BLOCK_TOKENS,
    MIN_DENSE_QUERIES,
    _attend_by_products,
    attend_causally,
    attend_part,
)


def by_definition(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = queries.double() @ keys.double().transpose(-1, -2) / queries.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias.double()
    return scores.softmax(-1) @ values.double(), scores.logsumexp(-1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_queries", [4, 12])
@pytest.mark.parametrize("num_keys", [1, 7, 600])
@pytest.mark.parametrize("is_biased", [False, True])
def test_a_part_gives_its_output_and_the_log_of_its_weights(num_queries: int, num_keys: int, is_biased: bool) -> None:
    """The operator beneath is not a public one: this says so when it changes."""
    queries, keys, values = (random(3, 2, n, 16, seed=n) for n in (num_queries, num_keys, num_keys))
    bias = None
    if is_biased:
        hidden = random(3, 1, num_queries, num_keys, seed=9) > 0.5
        hidden[..., 0] = False
        bias = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))

    output, weight = attend_part(queries, keys, values, bias)

    expected, expected_weight = by_definition(queries, keys, values, bias)
    assert output.shape == (3, 2, num_queries, 16)
    assert weight.shape == (3, 2, num_queries)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(weight.double(), expected_weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_many_queries_of_one_prompt_give_the_same(dtype: torch.dtype) -> None:
    queries, keys, values = (random(1, 2, n, 16, seed=n).to(dtype) for n in (MIN_DENSE_QUERIES + 3, 77, 77))

    output, weight = attend_part(queries, keys, values, None)

    expected, expected_weight = by_definition(queries, keys, values, None)
    tolerance = 1e-5 if dtype != torch.bfloat16 else 2e-2
    torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(weight.double(), expected_weight, atol=tolerance, rtol=0)


@pytest.mark.parametrize("num_before", [0, 5, 130])
@pytest.mark.parametrize("num_tokens", [1, 2, CAUSAL_BLOCK_TOKENS, 2 * CAUSAL_BLOCK_TOKENS + 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prompt_sees_what_lies_before_it_and_not_what_follows(
    num_before: int, num_tokens: int, dtype: torch.dtype
) -> None:
    num_keys = num_before + num_tokens
    queries = random(num_tokens, 4, 16).to(dtype)
    keys, values = (random(2, num_keys, 16, seed=seed).to(dtype) for seed in (1, 2))

    output = attend_causally(queries, keys, values)

    hidden = torch.ones(num_tokens, num_keys, dtype=torch.bool).triu(num_before + 1)
    bias = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    all_keys, all_values = (each.repeat_interleave(2, dim=0)[None] for each in (keys, values))
    expected, _ = by_definition(queries.transpose(0, 1)[None], all_keys, all_values, bias)
    torch.testing.assert_close(output.double(), expected[0].transpose(0, 1).flatten(1), atol=1e-5, rtol=0)


def test_strided_keys_are_read_as_they_are() -> None:
    cache = random(5, 2, 40, 8)
    queries = random(5, 2, 3, 8, seed=1)

    output, _ = attend_part(queries, cache[:, :, :11], cache[:, :, :11], None)

    expected, _ = by_definition(queries, cache[:, :, :11].contiguous(), cache[:, :, :11].contiguous(), None)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=40)
@given(split=st.integers(1, 29), scale=st.floats(0.1, 30.0), seed=st.integers(0, 1000))
def test_parts_put_together_are_the_whole(split: int, scale: float, seed: int) -> None:
    queries, keys, values = (random(1, 2, n, 8, seed=seed + n) for n in (9, 30, 30))
    queries = queries * scale
    whole, whole_weight = attend_part(queries, keys, values, None)

    first, first_weight = attend_part(queries, keys[:, :, :split], values[:, :, :split], None)
    rest, rest_weight = attend_part(queries, keys[:, :, split:], values[:, :, split:], None)

    share = torch.sigmoid(rest_weight - first_weight)[..., None]
    torch.testing.assert_close(torch.lerp(first, rest, share), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.logaddexp(first_weight, rest_weight), whole_weight, atol=1e-4, rtol=0)


def test_scores_of_bfloat16_keys_are_not_rounded() -> None:
    """Scores of about 40, of which bfloat16 keeps two digits."""
    queries, keys, values = (random(2, 2, n, 64, seed=n).to(torch.bfloat16) for n in (3, 50, 50))
    queries = queries * 5

    _, weight = _attend_by_products(queries, keys, values, None)

    _, expected = by_definition(queries, keys, values, None)
    torch.testing.assert_close(weight.double(), expected, atol=1e-4, rtol=0)
