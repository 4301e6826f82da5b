"""Token sequences as a prefix tree, laid out end to end: a shared prefix is stored once.

For sequences ``a b c`` and ``a b d`` the layout is ``a b | c | d``. Nodes are runs of tokens in depth-first order, so
the subtree of a node follows it directly. Hence query q sees key k exactly when k comes first and q is in the subtree
of k's node: ``k <= q < visible_until[k]``.

Legend: T tokens of the layout, S sequences, L tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from grpo_core.model.common_prefix import num_common_tokens
from grpo_core.types import Int32

MIN_SAVED_TOKENS = 8
"""A shared prefix becomes a node only when that saves this many tokens: each node costs attention some time."""


@dataclass(frozen=True, slots=True)
class Node:
    """A run of tokens. It attends to its ancestors, and to itself causally."""

    start: int  # of its tokens in the layout
    end: int
    subtree_end: int  # end of its last descendant; the descendants begin at ``end``
    depth: int  # tokens of its ancestors, which is the position of its first token
    path: tuple[int, ...]  # its ancestors and itself, root first

    @property
    def num_tokens(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class PrefixTree:
    """Strictly a forest: sequences that share no prefix are in different trees."""

    nodes: tuple[Node, ...]
    leaves: tuple[int, ...]  # [S], the node in which each sequence ends
    token_ids: Int32  # [T]

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """[T]: each token's position in its sequences."""
        return np.concatenate([np.arange(node.depth, node.depth + node.num_tokens) for node in self.nodes])

    @cached_property
    def visible_until(self) -> NDArray[np.int64]:
        """[T]: the end of the subtree of each token's node."""
        return np.concatenate([np.full(node.num_tokens, node.subtree_end) for node in self.nodes])

    def places(self, sequence: int) -> NDArray[np.int64]:
        """[L]: where the tokens of a sequence are in the layout."""
        path = (self.nodes[index] for index in self.nodes[self.leaves[sequence]].path)
        return np.concatenate([np.arange(node.start, node.end) for node in path])


def build_tree(sequences: Sequence[Int32], min_saved_tokens: int = MIN_SAVED_TOKENS) -> PrefixTree:
    """The tree of ``sequences``, none of them empty."""
    return _Builder(sequences, min_saved_tokens).build()


def build_rows(sequences: Sequence[Int32]) -> PrefixTree:
    """A forest in which nothing is shared, in the order of ``sequences``."""
    ends = np.cumsum([len(sequence) for sequence in sequences]).tolist()
    starts = [0, *ends[:-1]]
    nodes = [Node(start, end, end, 0, (i,)) for i, (start, end) in enumerate(zip(starts, ends, strict=True))]
    return PrefixTree(tuple(nodes), tuple(range(len(nodes))), np.concatenate(sequences))


def related(sequences: Sequence[Int32], min_saved_tokens: int = MIN_SAVED_TOKENS) -> list[tuple[tuple[int, ...], int]]:
    """Group ``sequences`` that share a prefix: for each tree the indices of its sequences, and its number of tokens."""
    if not sequences:
        return []
    tree = build_tree(sequences, min_saved_tokens)
    trees: dict[int, list[int]] = {}
    for index, leaf in enumerate(tree.leaves):
        trees.setdefault(tree.nodes[leaf].path[0], []).append(index)
    return [(tuple(members), tree.nodes[root].subtree_end - tree.nodes[root].start) for root, members in trees.items()]


_Range = tuple[int, int, int, tuple[int, ...]]  # of the order: first, last; then depth and path


class _Builder:
    """Builds from the sequences in lexicographic order, where those that share a prefix are neighbours."""

    def __init__(self, sequences: Sequence[Int32], min_saved_tokens: int) -> None:
        assert all(len(sequence) for sequence in sequences)
        self._sequences = sequences
        self._min_saved = min_saved_tokens
        # Ids are not negative, so their big-endian bytes sort as they do.
        self._order = sorted(range(len(sequences)), key=lambda index: sequences[index].astype(">i4").tobytes())
        self._common = [num_common_tokens(sequences[one], sequences[other]) for one, other in pairwise(self._order)]
        self._nodes: list[Node] = []
        self._runs: list[Int32] = []
        self._num_tokens = 0
        self._leaves = [-1] * len(sequences)

    def build(self) -> PrefixTree:
        waiting: list[_Range | int] = [(0, len(self._order), 0, ())]
        while waiting:  # no recursion: turns may be nested a thousand deep
            task = waiting.pop()
            if isinstance(task, int):
                self._close(task)
            else:
                waiting.extend(reversed(self._grow(*task)))
        return PrefixTree(tuple(self._nodes), tuple(self._leaves), np.concatenate(self._runs))

    def _grow(self, first: int, last: int, depth: int, path: tuple[int, ...]) -> list[_Range | int]:
        """Lay out the sequences at ``first:last`` of the order, from their token ``depth`` on. What is left of them
        comes next: ranges to lay out and nodes to close, in order."""
        sequence = self._sequences[self._order[first]]
        if last - first == 1:
            self._leaf(self._order[first], depth, path)
            return []
        shared = min(self._common[first : last - 1])
        if (shared - depth) * (last - first - 1) < self._min_saved:
            return [(*part, depth, path) for part in self._parts(first, last, shared)]
        index = self._open(sequence[depth:shared], depth, path)
        return [*((*part, shared, (*path, index)) for part in self._parts(first, last, shared)), index]

    def _parts(self, first: int, last: int, shared: int) -> Iterator[tuple[int, int]]:
        """Split a range wherever two neighbours share only ``shared`` tokens."""
        start = first
        for place in range(first, last - 1):
            if self._common[place] == shared:
                yield start, place + 1
                start = place + 1
        yield start, last

    def _leaf(self, sequence: int, depth: int, path: tuple[int, ...]) -> None:
        rest = self._sequences[sequence][depth:]
        if len(rest) == 0:  # it is a prefix of others
            self._leaves[sequence] = path[-1]
            return
        index = self._open(rest, depth, path)
        self._close(index)
        self._leaves[sequence] = index

    def _open(self, run: Int32, depth: int, path: tuple[int, ...]) -> int:
        index, start = len(self._nodes), self._num_tokens
        self._num_tokens += len(run)
        self._runs.append(run)
        self._nodes.append(Node(start, self._num_tokens, self._num_tokens, depth, (*path, index)))
        return index

    def _close(self, index: int) -> None:
        node = self._nodes[index]
        self._nodes[index] = Node(node.start, node.end, self._num_tokens, node.depth, node.path)
