"""Compiled attention against the same by blocks in float64, which is checked against a masked product.

The machine that runs these tests has a C compiler; where there is none they are skipped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_core.kernels import compiler
from grpo_core.training.forward.compiled_tree import NativeTreeAttention, Visibility, has_native_attention
from grpo_core.training.forward.prefix_tree import PrefixTree, build_rows, build_tree
from grpo_core.training.forward.tree_attention import TreePlan
from grpo_core.training.forward.tree_blocks import BlockAttention, build_blocks

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
SCALING = 0.3
TOLERANCE = 2e-5


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def trees() -> dict[str, PrefixTree]:
    rng = np.random.default_rng(0)

    def group(num_prompt_tokens: int, sizes: list[int]) -> list[NDArray[np.int32]]:
        prompt = rng.integers(0, 50, num_prompt_tokens)
        return [np.concatenate([prompt, rng.integers(50, 90, size)]).astype(np.int32) for size in sizes]

    turn = group(150, [40])[0]
    turns = [np.concatenate([turn, rng.integers(0, 90, size)]).astype(np.int32) for size in (3, 70, 8, 8)]
    return {
        "groups": build_tree([*group(131, [3, 1, 16, 17, 64, 65]), *group(64, [40, 5])]),
        "turns": build_tree([*turns, turn[:190], rng.integers(90, 99, 6).astype(np.int32)]),
        "rows": build_rows([np.arange(size, dtype=np.int32) for size in (300, 5, 70, 1)]),
        "one": build_rows([np.arange(1, dtype=np.int32)]),
    }


def random_inputs(tree: PrefixTree, num_queries: int, shape: tuple[int, int, int]) -> list[Tensor]:
    """Queries, keys and values as a model has them, heads behind tokens, and a gradient of the output."""
    heads, key_heads, size = shape
    rng = np.random.default_rng(1)
    sizes = ((num_queries, heads), (tree.num_tokens, key_heads), (tree.num_tokens, key_heads), (num_queries, heads))
    q, k, v, given = (torch.from_numpy(rng.standard_normal((1, *each, size), dtype=np.float32)) for each in sizes)
    return [*(each.transpose(1, 2).requires_grad_() for each in (q, k, v)), given]


def native(tree: PrefixTree, inputs: list[Tensor], needed: NDArray[np.int64] | None) -> list[Tensor]:
    """The output, and the gradients of queries, keys and values."""
    *read, given = inputs
    output = NativeTreeAttention.apply(*read, SCALING, Visibility.of(tree.visible_until, needed))
    assert isinstance(output, Tensor)
    return [output.detach(), *torch.autograd.grad(output, read, given)]


def by_blocks(tree: PrefixTree, inputs: list[Tensor], needed: NDArray[np.int64] | None) -> list[Tensor]:
    *read, given = (each.detach().double() for each in inputs)
    read = [each.requires_grad_() for each in read]
    output = BlockAttention.apply(*read, SCALING, build_blocks(tree, needed))
    assert isinstance(output, Tensor)
    return [output.detach(), *torch.autograd.grad(output, read, given.double())]


def assert_equal(mine: list[Tensor], exact: list[Tensor]) -> None:
    for one, other in zip(mine, exact, strict=True):
        size = max(1.0, float(other.abs().max()))
        assert float((one - other).abs().max()) < TOLERANCE * size


@needs_compiler
@pytest.mark.parametrize("shape", [(4, 2, 16), (6, 1, 48), (3, 3, 64), (14, 2, 128), (2, 1, 256), (64, 1, 16)])
@pytest.mark.parametrize("name", list(trees()))
def test_output_and_gradients_are_those_of_blocks(name: str, shape: tuple[int, int, int]) -> None:
    tree = trees()[name]
    inputs = random_inputs(tree, tree.num_tokens, shape)

    assert_equal(native(tree, inputs, None), by_blocks(tree, inputs, None))


@needs_compiler
@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("name", ["groups", "one"])
def test_threads_share_the_tiles(name: str) -> None:
    tree = trees()[name]
    inputs = random_inputs(tree, tree.num_tokens, (6, 2, 16))

    assert_equal(native(tree, inputs, None), by_blocks(tree, inputs, None))


@needs_compiler
def test_some_tokens_alone_can_have_queries() -> None:
    """As a last layer has them."""
    tree = trees()["groups"]
    needed = np.array([0, 130, *range(131, 150), *range(200, tree.num_tokens)])
    inputs = random_inputs(tree, len(needed), (4, 2, 32))

    assert_equal(native(tree, inputs, needed), by_blocks(tree, inputs, needed))


@needs_compiler
def test_scores_of_any_size_have_a_softmax() -> None:
    tree = trees()["turns"]
    q, k, v, given = random_inputs(tree, tree.num_tokens, (4, 2, 16))
    inputs = [(q.detach() * 40).requires_grad_(), k, v, given]  # scores up to 400
    output, *gradients = native(tree, inputs, None)

    assert_equal([output], by_blocks(tree, inputs, None)[:1])
    assert all(bool(each.isfinite().all()) for each in gradients)


@needs_compiler
def test_keys_that_do_not_change_get_no_gradient() -> None:
    tree = trees()["groups"]
    q, k, v, given = random_inputs(tree, tree.num_tokens, (4, 2, 16))
    _, to_q, _, to_v = native(tree, [q, k, v, given], None)
    output = NativeTreeAttention.apply(q, k.detach(), v, SCALING, Visibility.of(tree.visible_until))
    assert isinstance(output, Tensor)

    assert all(map(torch.equal, torch.autograd.grad(output, (q, v), given), (to_q, to_v)))


@needs_compiler
def test_what_is_not_a_number_reaches_those_who_see_it() -> None:
    tree = build_tree([np.array([*range(100), last], dtype=np.int32) for last in (100, 101)], min_saved_tokens=1)
    q, k, v, _ = random_inputs(tree, tree.num_tokens, (4, 2, 16))
    with torch.no_grad():
        k[:, :, 100, 0] = float("nan")  # the first completion
        output = NativeTreeAttention.apply(q, k, v, SCALING, Visibility.of(tree.visible_until))
    assert isinstance(output, Tensor)

    assert output[0, 100].isnan().all()
    assert output[0, :100].isfinite().all()
    assert output[0, 101].isfinite().all()


@needs_compiler
def test_narrower_vectors_give_the_same(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a processor without AVX-512 runs."""
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-mno-avx512f"))
    tree = trees()["groups"]
    inputs = random_inputs(tree, tree.num_tokens, (4, 2, 48))

    assert_equal(native(tree, inputs, None), by_blocks(tree, inputs, None))
    assert list(fresh_cache.glob("tree_attention-*.so"))


def test_other_shapes_and_numbers_go_by_blocks() -> None:
    one, other = torch.zeros(1, 65, 3, 16), torch.zeros(1, 1, 3, 16)

    assert not has_native_attention(one, other)  # too many heads for one key head
    assert not has_native_attention(other[..., :8], other[..., :8])
    assert not has_native_attention(other.double(), other.double())


def test_without_a_compiler_blocks_compute_it_and_that_is_said_once(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    tree = trees()["groups"]
    q, k, v, _ = random_inputs(tree, tree.num_tokens, (4, 2, 16))
    plan = TreePlan(tree, torch.device("cpu"))

    with caplog.at_level(logging.WARNING):
        outputs = [plan.attend(0, q, k, v, SCALING) for _ in range(2)]

    assert torch.equal(*outputs)
    by_block = BlockAttention.apply(q, k, v, SCALING, build_blocks(tree))
    assert isinstance(by_block, Tensor)
    assert torch.equal(outputs[0], by_block)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "grpo_core.kernels.compiler"]
    assert "tree_attention" in said
    assert "no C compiler" in said
