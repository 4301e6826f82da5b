from __future__ import annotations

import numpy as np
import torch

from grpo_core.training.forward.prefix_tree import PrefixTree, build_rows, build_tree
from grpo_core.training.forward.tree_attention import tree_mask
from grpo_core.training.forward.tree_blocks import KEY_STEP, MAX_RUN_TOKENS, MIN_BLOCK_TOKENS, Block, build_blocks


def group(rng: np.random.Generator, num_prompt_tokens: int, sizes: list[int]) -> PrefixTree:
    prompt = rng.integers(0, 50, num_prompt_tokens)
    return build_tree([np.concatenate([prompt, rng.integers(50, 90, size)]).astype(np.int32) for size in sizes])


def num_pairs(block: Block) -> int:
    return len(block.rows) * block.num_keys


def test_few_keys_are_read_for_tokens_that_do_not_see_them() -> None:
    """Over all blocks: the pairs of the mask, and at most a third more for what is masked and for the filling."""
    tree = group(np.random.default_rng(0), 944, [63] * 8)
    blocks = build_blocks(tree)

    seen = int(tree_mask(tree, torch.device("cpu")).sum())
    assert seen <= sum(map(num_pairs, blocks)) <= 1.33 * seen
    assert sum(block.num_rows for block in blocks) == tree.num_tokens
    assert [block.num_rows for block in blocks] == [256, 256, 256, 176, 252, 252]


def test_runs_are_neither_long_nor_all_alone() -> None:
    tree = build_rows([np.arange(size, dtype=np.int32) for size in (700, 5, 70, 60, 3)])
    blocks = build_blocks(tree)

    assert [block.num_rows for block in blocks] == [256, 75, 63, 256, 188]
    assert all(block.num_rows <= max(MAX_RUN_TOKENS, MIN_BLOCK_TOKENS) for block in blocks)
    assert all(block.num_keys % KEY_STEP == 0 for block in blocks)


def test_queries_of_some_tokens_take_their_blocks_only() -> None:
    """As a last layer has them: the prompt's last token, and the first ones of each completion."""
    tree = group(np.random.default_rng(1), 600, [20, 30])
    places = np.array([599, *range(600, 610), *range(620, 640)])
    (prompt, completions) = build_blocks(tree, places)

    assert (prompt.num_rows, prompt.rows[0]) == (1, 0)
    assert completions.rows[: completions.num_rows].tolist() == list(range(1, 31))
    assert completions.keys == (slice(0, 650),)
