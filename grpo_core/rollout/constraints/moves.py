"""Which tokens a state of a byte automaton can take, and where each leads.

Tokens whose bytes the automaton treats alike lead to the same states, so they are one entry of a trie: a state is
followed through the trie, and not through the bytes of every token. Most states of a counter take the same tokens, and
these lead to states that allow the same texts: such a ``Layout`` is found once for all of them. The few tokens of more
than ``LONG_BYTES``, mostly runs of blanks or marks, are followed for each state: they may reach the counter's end.

Legend: R tokens with bytes that the automaton has, K entries of the trie, L long tokens, S states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from grpo_core.rollout.constraints.automaton.byte_automaton import ByteAutomaton
from grpo_core.types import Int32

LONG_BYTES = 24
_MAX_STATES = 16  # of which moves are kept, about a megabyte each with a large vocabulary
_MAX_LAYOUTS = 16  # likewise

Places = NDArray[np.int64]
Groups = tuple[tuple[int, Places], ...]
"""Heads that tokens share, as one of the states that they lead to, with the places of these tokens, ascending."""


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """The tokens that states of one class can take."""

    tokens: Int32  # [N] ascending; some long ones may be dead
    groups: Groups  # of the tokens of at most ``LONG_BYTES``
    longer: Places  # of the others, longest first
    rows: Places  # of these among all long tokens

    @classmethod
    def of(cls, tokens: Int32, states: Int32, head_class: Int32) -> Layout:
        """The layout of ``tokens`` [N] that lead to ``states`` [N], all of them live."""
        none = np.zeros(0, dtype=np.int64)
        return cls(tokens, group_by_heads(states, head_class), none, none)


class Moves:
    """The moves of tokens with bytes ``matrix`` [N, longest], longest first, their ``lengths`` [N] and ``ids`` [N]."""

    def __init__(self, automaton: ByteAutomaton, matrix: NDArray[np.uint8], lengths: Int32, ids: Int32) -> None:
        self._automaton, self._dead = automaton, automaton.dead
        kind_of, table = automaton.byte_kinds
        self._num_kinds = table.shape[1]
        self._next = (table * self._num_kinds).ravel()  # [(S + 1) * kinds], of rows in itself
        is_used = (table[:-1] != self._dead).any(axis=0)[kind_of]
        fits = (is_used[matrix] | (np.arange(matrix.shape[1]) >= lengths[:, None])).all(axis=1)
        kinds, lengths = kind_of[matrix[fits]], lengths[fits]
        num_long = int(np.searchsorted(-lengths, -LONG_BYTES, side="left"))
        self._long_kinds, self._long_lengths = kinds[:num_long].T.astype(np.int32), lengths[:num_long]
        self._build(kinds, np.minimum(lengths, LONG_BYTES), ids[fits])
        places = np.empty(len(lengths), dtype=np.int64)
        places[self._order] = np.arange(len(lengths))
        self._long = places[:num_long]  # [L]
        self.of = lru_cache(maxsize=_MAX_STATES)(self._find)
        self._layouts = lru_cache(maxsize=_MAX_LAYOUTS)(self._find_layout)

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
        self._order = np.argsort(ids, kind="stable")
        self._ids, self._entry_of = ids[self._order], entry[self._order].astype(np.int32)

    @cached_property
    def _class_of(self) -> Int32:
        """[S + 1]: states of one class have the same layout."""
        return self._automaton.classes_behind(LONG_BYTES)

    def layout(self, state: int) -> Layout:
        """The layout of ``state``: the same object for all states that share it, while it is kept."""
        return self._layouts(int(self._class_of[state]))

    def groups_of_longer(self, state: int, layout: Layout) -> Groups:
        """The long tokens of ``layout`` that ``state`` can take, by their place in ``longer``."""
        if not len(layout.rows):
            return ()
        return group_by_heads(self._follow_long(state, layout.rows), self._automaton.head_class)

    def tokens(self, state: int) -> Int32:
        """The tokens that ``state`` can take, ascending."""
        layout = self.layout(state)
        if not len(layout.rows):
            return layout.tokens
        dead = layout.longer[self._follow_long(state, layout.rows) == self._dead]
        return np.delete(layout.tokens, dead)

    def _find(self, state: int) -> tuple[Int32, Int32]:
        """Tokens that ``state`` can take, ascending, and the states that they lead to."""
        states = self._walk(state)
        states[self._long] = self._follow_long(state, np.arange(len(self._long)))
        alive = np.flatnonzero(states != self._dead)
        return self._ids.take(alive), states.take(alive)

    def _find_layout(self, state_class: int) -> Layout:
        state = int(np.argmax(self._class_of == state_class))
        states = self._walk(state)
        alive = np.flatnonzero(states != self._dead)
        states = states.take(alive)
        rows = np.flatnonzero(np.isin(self._long, alive))
        longer = np.searchsorted(alive, self._long[rows])
        states[longer] = self._dead  # not known yet
        return Layout(self._ids.take(alive), group_by_heads(states, self._automaton.head_class), longer, rows)

    def _walk(self, state: int) -> Int32:
        """The states [R] to which the first ``LONG_BYTES`` of the tokens, by ascending ids, lead from ``state``."""
        reached = np.empty(self._num_entries, dtype=np.int32)
        reached[0] = state * self._num_kinds
        for first, parents, own in self._levels:
            reached[first : first + len(own)] = self._next.take(reached.take(parents) + own)
        return reached.take(self._entry_of) // np.int32(self._num_kinds)

    def _follow_long(self, state: int, rows: Places) -> Int32:
        """The states to which the long tokens ``rows``, longest first, lead from ``state``."""
        lengths = self._long_lengths[rows]
        kinds = self._long_kinds[: max(lengths, default=0), rows]
        reached = np.full(len(rows), state * self._num_kinds, dtype=np.int32)
        bounds = np.searchsorted(-lengths, -np.arange(len(kinds)), side="left")  # those longer than each column
        for own, num in zip(kinds, bounds.tolist(), strict=True):
            reached[:num] = self._next.take(reached[:num] + own[:num])
        return reached // np.int32(self._num_kinds)


def group_by_heads(states: Int32, head_class: Int32) -> Groups:
    """The places of ``states`` by their heads, without the dead state, which is the last of ``head_class`` [S + 1]."""
    alive = np.flatnonzero(states != len(head_class) - 1)
    classes = head_class[states[alive]]
    order = np.argsort(classes.astype(np.uint16), kind="stable")  # so narrow they are sorted by counting
    bounds = np.flatnonzero(np.diff(classes[order], prepend=-1))
    return tuple((int(states[each[0]]), each) for each in np.split(alive[order], bounds)[1:])
