"""The automaton of a regular expression over bytes, as the library outlines-core builds it."""

from __future__ import annotations

import re
import warnings
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_core.errors import ConstraintError
from grpo_core.types import Int32

if TYPE_CHECKING:
    from outlines_core import Index

MAX_ENDINGS = 64  # texts to try after a token, to see whether the tokenizer produces it
ENDING_BYTES = 16  # of each; later text does not move the end of the token
_END = 0  # the byte that marks the end of a match; no completion contains it
_SYNTAX = (
    "allowed is the syntax of Rust's regex crate without look-around, back-references and anchors such as '^', '$' and "
    "'\\b' (all of a completion must match), in which every branch matches some text; rewrite it"
)


class ByteAutomaton:
    """The deterministic automaton of an expression over the bytes of UTF-8, without dead ends.

    ``table`` [S + 1, 256] has the next state of each state and byte; ``dead``, the last row, means none.
    State 0 is the first one. ``is_final`` [S + 1].
    """

    def __init__(self, table: Int32, is_final: NDArray[np.bool_]) -> None:
        self.table, self.is_final = table, is_final
        self.dead = len(table) - 1
        self._next_byte, distances = self._shortest_ways()
        lost = distances < 0
        self.table[lost] = self.dead
        self.table[lost[self.table]] = self.dead
        self._endings: dict[tuple[int, int], tuple[bytes, ...]] = {}

    @classmethod
    def compile(cls, pattern: str) -> ByteAutomaton:
        """
        Raises:
            ConstraintError: not a regular expression, or one that nothing matches.
        """
        index = _compile_index(pattern)
        transitions = index.get_transitions()
        first = index.get_initial_state()
        numbers = {first: 0}
        for state in transitions:
            numbers.setdefault(state, len(numbers))
        table = np.full((len(numbers) + 1, 256), len(numbers), dtype=np.int32)
        for state, targets in transitions.items():
            for byte, target in targets.items():
                if byte < 256:
                    table[numbers[state], byte] = numbers[target]
        ends = np.zeros(len(table), dtype=np.bool_)
        ends[[numbers[state] for state in index.get_final_states()]] = True
        is_final = ends[table[:, _END]]
        table[:, _END] = len(numbers)
        automaton = cls(table, is_final)
        if not is_final[0] and (automaton.table[0] == automaton.dead).all():
            raise ConstraintError(f"constraint pattern {pattern!r}: no text matches it; {_SYNTAX}")
        return automaton

    def _shortest_ways(self) -> tuple[Int32, Int32]:
        """The first byte on the shortest way from each state [S + 1] to an end, and the length of that way; negative
        without one."""
        sources, byte_values = np.nonzero(self.table != self.dead)
        targets = self.table[sources, byte_values]
        order = np.argsort(targets, kind="stable")
        sources, byte_values = sources[order], byte_values[order]
        starts = np.searchsorted(targets[order], np.arange(len(self.table) + 1))
        next_byte = np.full(len(self.table), -1, dtype=np.int32)
        distances = np.where(self.is_final, 0, -1).astype(np.int32)
        queue = deque(np.flatnonzero(self.is_final).tolist())
        while queue:
            state = queue.popleft()
            for edge in range(starts[state], starts[state + 1]):
                source = int(sources[edge])
                if distances[source] < 0:
                    distances[source] = distances[state] + 1
                    next_byte[source] = byte_values[edge]
                    queue.append(source)
        return next_byte, distances

    @cached_property
    def _order(self) -> list[int] | None:
        """A topological order of the states; None when there is a cycle."""
        num_ways = np.bincount(self.table.ravel(), minlength=len(self.table))
        order = [state for state in range(self.dead) if num_ways[state] == 0]
        for state in order:
            for target, count in zip(*np.unique(self.table[state], return_counts=True), strict=True):
                num_ways[target] -= count
                if num_ways[target] == 0 and target != self.dead:
                    order.append(int(target))
        return order if len(order) == self.dead else None

    @cached_property
    def max_bytes(self) -> int | None:
        """Bytes of the longest match, None when there is none."""
        if self._order is None:
            return None
        longest = np.full(len(self.table), -1, dtype=np.int64)  # the dead state stays below all
        for state in reversed(self._order):
            longest[state] = 0 if self.is_final[state] else -1
            if (best := int(longest[self.table[state]].max())) >= 0:
                longest[state] = best + 1
        return int(longest[0])

    def strings(self, limit: int) -> list[bytes] | None:
        """All matches; None when there are more than ``limit``."""
        if self._order is None:
            return None
        counts = np.zeros(len(self.table), dtype=np.int64)
        for state in reversed(self._order):
            counts[state] = min(int(self.is_final[state]) + int(counts[self.table[state]].sum()), limit + 1)
        return None if counts[0] > limit else list(self._walk())

    def _walk(self) -> Iterator[bytes]:
        stack = [(0, b"")]
        while stack:
            state, text = stack.pop()
            if self.is_final[state]:
                yield text
            for byte in np.flatnonzero(self.table[state] != self.dead).tolist():
                stack.append((int(self.table[state, byte]), text + bytes([byte])))

    def shortest_ending(self, state: int) -> bytes:
        """The bytes from ``state`` to its nearest end."""
        text = bytearray()
        while not self.is_final[state]:
            text.append(self._next_byte[state])
            state = int(self.table[state, text[-1]])
        return bytes(text)

    def endings(self, state: int, limit: int = MAX_ENDINGS) -> tuple[bytes, ...]:
        """At most ``limit`` texts that lead from ``state`` to an end, as different from the start as possible."""
        if (state, limit) not in self._endings:
            texts: list[bytes] = []
            beginnings = [(state, b"")]
            while beginnings and len(beginnings[0][1]) < ENDING_BYTES and len(texts) + len(beginnings) < limit:
                texts += [text for at, text in beginnings if self.is_final[at]]
                longer = ([(target, text + byte) for byte, target in self._branches(at)] for at, text in beginnings)
                beginnings = [item for turn in zip_longest(*longer) for item in turn if item is not None]
            texts += [text + self.shortest_ending(at) for at, text in beginnings[:limit]]
            self._endings[state, limit] = tuple(dict.fromkeys(texts))[:limit]
        return self._endings[state, limit]

    def _branches(self, state: int) -> list[tuple[bytes, int]]:
        """The bytes that may follow and their states, alternating between kinds of characters."""
        kinds: dict[str, list[int]] = {}
        for byte in np.flatnonzero(self.table[state] != self.dead).tolist():
            kinds.setdefault(_kind(byte), []).append(byte)
        for of_kind in kinds.values():
            of_kind.sort(key=lambda byte: byte < 0x20)  # printable ones first, the space before the tab
        in_turn = [byte for turn in zip_longest(*kinds.values()) for byte in turn if byte is not None]
        return [(bytes([byte]), int(self.table[state, byte])) for byte in in_turn]


def _kind(byte: int) -> str:
    character = chr(byte)
    if byte >= 0x80:
        return "other"
    if character in "\r\n":
        return "line"
    return next((kind for kind in ("isalpha", "isdigit", "isspace") if getattr(character, kind)()), "mark")


def _compile_index(pattern: str) -> Index:
    """The index of ``pattern`` and ``_END`` over a vocabulary of single bytes.

    Without the end marker the library prefers the first alternative, as a search does: 'a|ab' would not match 'ab'.

    Raises:
        ConstraintError: not a regular expression, or one of which a part matches nothing.
    """
    from outlines_core import Index, Vocabulary

    single_bytes = Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
    problem = _python_problem(pattern)
    try:
        if problem:  # or a syntax that Python does not know, such as \p{L}; without our bracket, which it might close
            Index(pattern, single_bytes)
        return Index(f"(?:{pattern})\\x{_END:02}", single_bytes)
    except ValueError:
        what = problem or "cannot be compiled"
        raise ConstraintError(f"constraint pattern {pattern!r}: {what}; {_SYNTAX}") from None


def _python_problem(pattern: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's warnings about nested sets
            re.compile(pattern)
    except re.error as error:
        return str(error)
    return None
