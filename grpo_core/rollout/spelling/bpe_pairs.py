"""Which two tokens of a byte-pair encoding may stand side by side in one piece of text.

A sequence of tokens is what the encoding makes of its text exactly when each two neighbours are: when the two texts,
joined, are encoded as the two tokens. For that, no merge across their border may come before the merges that hide the
border's symbols. The symbols at a border are the token, its part there, the part of that one, and so on: its spine.
Two tokens are no neighbours when there is a merge of symbols ``a`` and ``b`` of their spines that comes before the
merge by which ``a`` grew, and not after the one by which ``b`` grew (of equal merges the one further left is first).

The tokens with ``b`` on their spine, grown at or after some merge, are one interval of an order of all tokens: a token
stands before those that grew from it, and what grew later before what grew earlier. So every merge forbids one
interval, and all neighbours of a token are found in less than a millisecond.

Legend: V tokens, M merges in the order of their ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Merges:
    """The merges of a model as ``tokenizer.json`` has it, and how each token grew."""

    left: Ids  # [M]
    right: Ids  # [M]
    rank: Ids  # [V] of the merge that makes the token from its own text; -1: none does
    left_part: Ids  # [V] of that merge; -1: none
    right_part: Ids  # [V]
    result: Ids  # [M]
    lookup: Lookup

    @classmethod
    def of(cls, vocab: Mapping[str, int], merges: Sequence[Any]) -> Merges:
        """Where several merges make a token, it grew by the one whose tokens are neighbours but for that merge."""
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
        left = np.array([vocab[one] for one, _ in pairs], dtype=np.int64)
        right = np.array([vocab[other] for _, other in pairs], dtype=np.int64)
        made = np.array([vocab[one + other] for one, other in pairs], dtype=np.int64)
        num_ids = max(vocab.values()) + 1
        rank, *parts = (np.full(num_ids, -1, dtype=np.int64) for _ in range(3))
        sizes = np.zeros(num_ids, dtype=np.int64)
        sizes[list(vocab.values())] = list(map(len, vocab))
        order = np.argsort(sizes[made], kind="stable")  # parts are shorter than what they make
        bounds = np.searchsorted(sizes[made][order], np.arange(int(sizes.max()) + 2))
        lookup = Lookup(left, right, num_ids)
        for first, last in pairwise(bounds):
            chosen = order[first:last]
            is_made = (rank >= 0) | (sizes == 1)
            chosen = chosen[is_made[left[chosen]] & is_made[right[chosen]]]
            if len(chosen):
                chosen = chosen[_stand(left[chosen], right[chosen], chosen, rank, (parts[0], parts[1]), lookup)]
                rank[made[chosen]] = chosen
                parts[0][made[chosen]], parts[1][made[chosen]] = left[chosen], right[chosen]
        return cls(left, right, rank, parts[0], parts[1], made, lookup)


class Neighbours:
    """The tokens that may stand on one side of a token: right of it, or left of it with ``is_left``."""

    def __init__(self, merges: Merges, *, is_left: bool) -> None:
        self._rank = merges.rank
        self._own_part = merges.left_part if is_left else merges.right_part
        self._includes_equal = is_left  # a merge across the border may come with that by which the right symbol grew
        own, other = (merges.right, merges.left) if is_left else (merges.left, merges.right)
        parent = merges.right_part if is_left else merges.left_part
        size, depth = _sizes(parent)
        children = np.lexsort((-self._rank, parent))  # of one parent, those that grew later first
        self._place = _places(children, parent, size, depth)
        num = len(own)
        ranks = np.arange(num)
        least = ranks + 1 if is_left else ranks  # of the merges by which a token may have grown from ``other``
        key = parent[children] * (num + 2) + num - self._rank[children]
        last = np.searchsorted(key, other * (num + 2) + num - least, side="right") - 1
        child = children[np.maximum(last, 0)]
        has_child = (last >= 0) & (parent[child] == other)
        self._starts = self._place[other]
        self._stops = np.where(has_child, self._place[child] + size[child], self._starts + 1)
        self._by_own = np.lexsort((ranks, own))
        self._first_of = np.searchsorted(own[self._by_own], np.arange(len(parent) + 1))

    def of(self, token: int) -> NDArray[np.bool_]:
        """[V]: whether each token is a neighbour of ``token`` in one piece."""
        starts, stops = [], []
        symbol, grown = token, NEVER
        while symbol >= 0:
            merges = self._by_own[self._first_of[symbol] : self._first_of[symbol + 1]]  # ascending
            merges = merges[: np.searchsorted(merges, grown, side="right" if self._includes_equal else "left")]
            starts.append(self._starts[merges])
            stops.append(self._stops[merges])
            symbol, grown = int(self._own_part[symbol]), int(self._rank[symbol])
        return ~_covered(np.concatenate(starts), np.concatenate(stops), len(self._place))[self._place]


def _covered(starts: Ids, stops: Ids, num: int) -> NDArray[np.bool_]:
    """[num]: what lies in one of the intervals from ``starts`` to before ``stops``, none of which is empty."""
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate(stops[order])
    is_first = np.ones(len(starts), dtype=np.bool_)  # of intervals that touch
    is_first[1:] = starts[1:] > ends[:-1]
    lasts = np.append(np.flatnonzero(is_first)[1:] - 1, len(ends) - 1) if len(ends) else order
    bounds = np.stack([starts[is_first], ends[lasts]], axis=1).ravel()
    sizes = np.diff(bounds, prepend=0, append=num)
    return np.repeat(np.arange(len(sizes)) % 2 == 1, sizes)


def _sizes(parent: Ids) -> tuple[Ids, Ids]:
    """Of each token the number of those that grew from it, itself included, and how often it grew itself."""
    depth, size = np.zeros(len(parent), dtype=np.int64), np.ones(len(parent), dtype=np.int64)
    at = parent.copy()
    while (going := at >= 0).any():
        depth[going] += 1
        np.add.at(size, at[going], 1)
        at = np.where(going, parent[np.maximum(at, 0)], -1)
    return size, depth


def _places(children: Ids, parent: Ids, size: Ids, depth: Ids) -> Ids:
    """[V]: each token's place in the order. ``children`` are the tokens by parent, in the order of siblings."""
    before = np.cumsum(size[children]) - size[children]
    first = np.searchsorted(parent[children], parent[children])
    place = np.empty(len(parent), dtype=np.int64)
    place[children] = before - before[first]
    for level in range(1, int(depth.max(initial=0)) + 1):
        of_level = np.flatnonzero(depth == level)
        place[of_level] += place[parent[of_level]] + 1
    return place


class Lookup:
    """The rank of the merge of two tokens."""

    def __init__(self, left: Ids, right: Ids, num_ids: int) -> None:
        self._num_ids = num_ids
        keys = left * num_ids + right
        self._ranks = np.argsort(keys, kind="stable")
        self._keys = keys[self._ranks]

    def __call__(self, left: Ids, right: Ids) -> Ids:
        wanted = left * self._num_ids + right
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[at] == wanted, self._ranks[at], NEVER)


def _stand(left: Ids, right: Ids, own: Ids, rank: Ids, parts: tuple[Ids, Ids], lookup: Lookup) -> NDArray[np.bool_]:
    """For each pair whether no merge across its border comes before the merge ``own``, which joins the pair."""
    result = np.ones(len(left), dtype=np.bool_)
    left, right = left.copy(), right.copy()
    before = own.copy()  # the first merge across the border that is too late to matter
    live = np.arange(len(left))
    while len(live):
        one, other = left[live], right[live]
        result[live[lookup(one, other) < before[live]]] = False
        is_left_later = rank[one] > rank[other]
        goes_on = (np.maximum(rank[one], rank[other]) >= 0) & result[live]
        live, is_left_later = live[goes_on], is_left_later[goes_on]
        before[live] = np.where(is_left_later, rank[left[live]], rank[right[live]] + 1)
        opened = np.where(is_left_later, parts[1][left[live]], left[live])
        right[live] = np.where(is_left_later, right[live], parts[0][right[live]])
        left[live] = opened
    return result
