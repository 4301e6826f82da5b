from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.training.forward.prefix_tree import PrefixTree, build_rows, build_tree, related

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=9)


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def sees(tree: PrefixTree) -> np.ndarray:
    """[T, T], from the definition: a token's ancestors, and its own run up to itself."""
    owners = np.concatenate([np.full(node.num_tokens, index) for index, node in enumerate(tree.nodes)])
    places = np.arange(tree.num_tokens)
    is_on_path = np.array([[owners[key] in tree.nodes[owners[query]].path for key in places] for query in places])
    is_before = (owners[None] != owners[:, None]) | (places[None] <= places[:, None])
    return is_on_path & is_before


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, st.integers(1, 9))
def test_every_sequence_is_on_its_path(lists: list[list[int]], min_saved_tokens: int) -> None:
    sequences = [ids(*values) for values in lists]
    tree = build_tree(sequences, min_saved_tokens)

    for index, sequence in enumerate(sequences):
        places = tree.places(index)
        assert tree.token_ids[places].tolist() == sequence.tolist()
        assert tree.positions[places].tolist() == list(range(len(sequence)))
        assert (np.diff(places) > 0).all()
    assert sum(node.num_tokens for node in tree.nodes) == tree.num_tokens <= sum(map(len, sequences))
    keys, queries = np.arange(tree.num_tokens), np.arange(tree.num_tokens)[:, None]
    assert ((keys <= queries) & (queries < tree.visible_until)).tolist() == sees(tree).tolist()


@settings(max_examples=60, deadline=None)
@given(SEQUENCES)
def test_with_nothing_to_save_each_prefix_is_there_once(lists: list[list[int]]) -> None:
    prefixes = {tuple(values[: end + 1]) for values in lists for end in range(len(values))}
    assert build_tree([ids(*values) for values in lists], min_saved_tokens=1).num_tokens == len(prefixes)


def test_a_tree_of_turns() -> None:
    """Two siblings go on from the same first turn, a third from another one."""
    tree = build_tree([ids(1, 2, 3, 4), ids(1, 2, 3, 5, 6), ids(1, 2, 7), ids(1, 2, 3)], min_saved_tokens=1)

    assert tree.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert tree.positions.tolist() == [0, 1, 2, 3, 3, 4, 2]
    assert tree.visible_until.tolist() == [7, 7, 6, 4, 6, 6, 7]
    assert tree.places(3).tolist() == [0, 1, 2]


def test_a_run_that_saves_little_is_no_node() -> None:
    sequences = [ids(1, 2, 3, 4, 5), ids(1, 2, 3, 4, 6), ids(1, 7, 8)]

    assert len(build_tree(sequences, min_saved_tokens=4).nodes) == 4  # four tokens once instead of twice
    assert len(build_tree(sequences, min_saved_tokens=5).nodes) == 3
    assert build_tree(sequences, min_saved_tokens=5).num_tokens == 5 + 5 + 3


def test_rows_keep_their_order_and_share_nothing() -> None:
    tree = build_rows([ids(4, 5), ids(1), ids(4, 5)])

    assert tree.token_ids.tolist() == [4, 5, 1, 4, 5]
    assert tree.positions.tolist() == [0, 1, 0, 0, 1]
    assert tree.visible_until.tolist() == [2, 2, 3, 5, 5]


def test_relatives_are_those_of_one_tree() -> None:
    sequences = [ids(5, 5, 1), ids(1, 2, 3), ids(5, 5, 2), ids(9)]

    assert related(sequences, min_saved_tokens=2) == [((0, 2), 4), ((1,), 3), ((3,), 1)]
    assert related([]) == []


@pytest.mark.parametrize("num", [1, 300])
def test_equal_sequences_are_one(num: int) -> None:
    tree = build_tree([ids(*range(20))] * num)

    assert tree.num_tokens == 20
    assert tree.leaves == (0,) * num


def test_turns_may_be_nested_any_number_of_times() -> None:
    """Each turn's prompt is all that was said before it."""
    whole = np.arange(3000 * 10, dtype=np.int32)
    tree = build_tree([whole[: 10 * (turn + 1)] for turn in range(1500)])

    assert tree.num_tokens == 1500 * 10
    assert len(tree.nodes) == 1500
    assert tree.places(1499).tolist() == list(range(1500 * 10))
