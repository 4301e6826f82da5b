from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from grpo_core.training.forward import tree_blocks
from grpo_core.training.forward.prefix_tree import PrefixTree, build_rows, build_tree
from grpo_core.training.forward.tree_attention import TreePlan, bucket, build_block_mask, flex_tree_attention, tree_mask

CPU = torch.device("cpu")
SCALING = 0.3


def forest(rng: np.random.Generator) -> PrefixTree:
    """Two prompts with ragged completions, one of which goes on in two ways, and a sequence of its own."""
    sequences = []
    for length in (37, 21):
        prompt = rng.integers(0, 50, length)
        sequences += [np.concatenate([prompt, rng.integers(50, 90, size)]) for size in (3, 1, 16, 17)]
    turn = sequences[2]
    sequences += [np.concatenate([turn, rng.integers(50, 90, size)]) for size in (5, 8)]
    sequences.append(rng.integers(90, 99, 6))
    return build_tree([sequence.astype(np.int32) for sequence in sequences])


def inputs(
    rng: np.random.Generator, num_tokens: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of four heads, keys and values of two."""
    shapes = ((1, 4, num_tokens, 8), (1, 2, num_tokens, 8), (1, 2, num_tokens, 8))
    q, k, v = (torch.from_numpy(rng.standard_normal(shape)).to(dtype).requires_grad_() for shape in shapes)
    return q, k, v


def masked(tree: PrefixTree, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    mask = tree_mask(tree, CPU)
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=SCALING, enable_gqa=True
    ).transpose(1, 2)


@pytest.mark.parametrize(("max_run_tokens", "min_block_tokens"), [(256, 128), (10, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_blocks_give_the_output_and_gradients_of_a_masked_product(
    max_run_tokens: int, min_block_tokens: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_blocks, "MAX_RUN_TOKENS", max_run_tokens)
    monkeypatch.setattr(tree_blocks, "MIN_BLOCK_TOKENS", min_block_tokens)
    rng = np.random.default_rng(0)
    tree = forest(rng)
    mine = inputs(rng, tree.num_tokens, dtype)
    q, k, v = (tensor.detach().clone().requires_grad_() for tensor in mine)
    weights = torch.from_numpy(rng.standard_normal((1, tree.num_tokens, 4, 8))).to(dtype)

    output, expected = TreePlan(tree, CPU).attend(0, *mine, SCALING), masked(tree, q, k, v)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()

    assert float((output - expected).detach().abs().max()) < tolerance
    for one, two in zip(mine, (q, k, v), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert float(two.grad.abs().max()) > 0.1
        assert float((one.grad - two.grad).abs().max()) < tolerance


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(1)
    tree = build_tree([rng.integers(0, 3, size).astype(np.int32) for size in (5, 6, 7)], min_saved_tokens=1)
    plan = TreePlan(tree, CPU)

    assert torch.autograd.gradcheck(lambda q, k, v: plan.attend(0, q, k, v, SCALING), inputs(rng, tree.num_tokens))


def test_keys_that_do_not_change_get_no_gradient() -> None:
    """As in a first layer whose key projection is frozen."""
    rng = np.random.default_rng(5)
    tree = forest(rng)
    q, k, v = inputs(rng, tree.num_tokens)
    with_keys, without = (
        torch.autograd.grad(TreePlan(tree, CPU).attend(0, q, keys, v, SCALING).square().sum(), (q, v))
        for keys in (k, k.detach())
    )
    for one, other in zip(with_keys, without, strict=True):
        assert torch.equal(one, other)


def test_half_precision_is_computed_in_float32() -> None:
    rng = np.random.default_rng(6)
    tree = forest(rng)
    q, k, v = (tensor.detach().bfloat16() for tensor in inputs(rng, tree.num_tokens))
    output = TreePlan(tree, CPU).attend(0, q, k, v, SCALING)

    assert output.dtype == torch.bfloat16
    exact = masked(tree, q.float(), k.float(), v.float())
    torch.testing.assert_close(output.float(), exact, atol=1e-5, rtol=2**-8)  # rounded once


@pytest.mark.slow
def test_flex_attention_has_the_same_mask() -> None:
    """Eagerly on the CPU, where it runs without a backward pass; on a GPU it is compiled."""
    rng = np.random.default_rng(3)
    for tree in (forest(rng), build_rows([np.arange(size, dtype=np.int32) for size in (70, 3, 60)])):
        q, k, v = (tensor.detach().float() for tensor in inputs(rng, tree.num_tokens))
        mask = build_block_mask(tree, CPU)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow so
            output = flex_tree_attention(q, k, v, SCALING, mask, flex_attention)

        assert mask.seq_lengths == (bucket(tree.num_tokens),) * 2
        assert float((output - masked(tree, q, k, v)).abs().max()) < 1e-5


def test_lengths_fall_into_few_buckets() -> None:
    buckets = {bucket(num_tokens) for num_tokens in range(1, 8193)}

    assert len(buckets) <= 24
    for num_tokens in range(1, 8193, 7):
        assert num_tokens <= bucket(num_tokens) <= max(128, 1.25 * num_tokens + 128)
        assert bucket(num_tokens) % 128 == 0
