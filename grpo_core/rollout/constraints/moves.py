"""Which tokens a state of a byte automaton can take, and where each leads.

Tokens whose bytes the automaton treats alike lead to the same states, so they are one entry of a trie: a state is
followed through some thousand entries, and not through the bytes of every token.

Legend: R tokens with bytes that the automaton has, K entries of the trie, S states.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from grpo_core.rollout.constraints.byte_automaton import ByteAutomaton
from grpo_core.types import Int32

_MAX_STATES = 32  # of which moves are kept, about a megabyte each with a large vocabulary


class Moves:
    """Of tokens given as bytes ``matrix`` [N, longest], longest first, their ``lengths`` [N] and ``ids`` [N]."""

    def __init__(self, automaton: ByteAutomaton, matrix: NDArray[np.uint8], lengths: Int32, ids: Int32) -> None:
        self._dead = automaton.dead
        kind_of, table = automaton.byte_kinds
        self._num_kinds = table.shape[1]
        self._next = (table * self._num_kinds).ravel()  # [(S + 1) * kinds], of rows in itself
        is_used = (table[:-1] != self._dead).any(axis=0)[kind_of]
        fits = (is_used[matrix] | (np.arange(matrix.shape[1]) >= lengths[:, None])).all(axis=1)
        self._build(kind_of[matrix[fits]], lengths[fits], ids[fits])
        self.of = lru_cache(maxsize=_MAX_STATES)(self._find)

    def _build(self, kinds: NDArray[np.uint8], lengths: Int32, ids: Int32) -> None:
        """The trie of ``kinds`` [R, longest], level by level: each entry's parent and its own kind."""
        entry = np.zeros(len(ids), dtype=np.int64)  # of each token so far; 0 is the root
        self._levels: list[tuple[int, Int32, Int32]] = []
        num = 1
        for column in range(int(lengths[0]) if len(lengths) else 0):
            rows = int(np.searchsorted(-lengths, -column, side="left"))  # those longer than ``column``
            found, place = np.unique(entry[:rows] * self._num_kinds + kinds[:rows, column], return_inverse=True)
            parents, own = (found // self._num_kinds).astype(np.int32), (found % self._num_kinds).astype(np.int32)
            self._levels.append((num, parents, own))
            entry[:rows] = num + place.reshape(-1)
            num += len(found)
        self._num_entries = num
        order = np.argsort(ids, kind="stable")
        self._ids, self._entry_of = ids[order], entry[order].astype(np.int32)

    def _find(self, state: int) -> tuple[Int32, Int32]:
        """Tokens that ``state`` can take, ascending, and the states that they lead to."""
        reached = np.empty(self._num_entries, dtype=np.int32)
        reached[0] = state * self._num_kinds
        for first, parents, own in self._levels:
            reached[first : first + len(own)] = self._next.take(reached.take(parents) + own)
        states = reached.take(self._entry_of)
        alive = np.flatnonzero(states != self._dead * self._num_kinds)
        return self._ids.take(alive), states.take(alive) // np.int32(self._num_kinds)
