"""The automaton of a regular expression over bytes, as the library outlines-core builds it."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from grpo_core.errors import ConstraintError
from grpo_core.rollout.constraints.automaton import byte_index
from grpo_core.rollout.constraints.automaton.byte_index import END
from grpo_core.rollout.constraints.automaton.explosion import may_explode
from grpo_core.rollout.constraints.automaton.state_classes import classes_ahead
from grpo_core.rollout.spelling.byte_text import unfinished
from grpo_core.types import Int32

MAX_ENDINGS = 64  # texts to try after a token, to see whether the tokenizer produces it
ENDING_BYTES = 16  # of each; later text does not move the end of the token
MAX_STATES = 50_000  # a kilobyte each
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
        self._heads: dict[tuple[int, int], tuple[bytes, ...]] = {}

    @classmethod
    def compile(cls, pattern: str) -> ByteAutomaton:
        """
        Raises:
            ConstraintError: not a regular expression, or one that nothing matches, or one that explodes.
        """
        first, finals, flat = _edges(pattern)
        sources, byte_values, targets = flat[:, 0], flat[:, 1], flat[:, 2]
        states, numbers = np.unique(np.concatenate([[first], finals, sources, targets]), return_inverse=True)
        if len(states) > MAX_STATES:
            raise ConstraintError(_explosion(pattern))
        numbers = numbers.reshape(-1)
        number_of_first = int(numbers[0])
        order = np.arange(len(states))  # the first state is state 0
        order[[0, number_of_first]] = order[[number_of_first, 0]]
        final_numbers, edge_numbers = np.split(order[numbers[1:]], [len(finals)])
        table = np.full((len(states) + 1, 256), len(states), dtype=np.int32)
        table[edge_numbers[: len(flat)], byte_values] = edge_numbers[len(flat) :]
        ends = np.zeros(len(table), dtype=np.bool_)
        ends[final_numbers] = True
        is_final = ends[table[:, END]]
        table[:, END] = len(states)
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

    def follow(self, state: int, text: bytes) -> int:
        """The state to which ``text`` leads from ``state``."""
        for byte in text:
            state = int(self.table[state, byte])
        return state

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

    def heads(self, state: int, limit: int = MAX_ENDINGS) -> tuple[bytes, ...]:
        """The beginnings of such endings, of at most ``ENDING_BYTES``. States of one ``head_class`` share them."""
        first = int(self._first_of_class[self.head_class[state]])
        if (first, limit) not in self._heads:
            texts = (text[:ENDING_BYTES] for text in self.endings(first, limit))
            whole = (text[: len(text) - len(unfinished(text))] for text in texts)
            self._heads[first, limit] = tuple(dict.fromkeys(whole))
        return self._heads[first, limit]

    @cached_property
    def byte_kinds(self) -> tuple[NDArray[np.uint8], Int32]:
        """The kind of each byte [256], of bytes that all states treat alike, and the table by kind [S + 1, kinds]."""
        columns, kind_of = np.unique(self.table, axis=1, return_inverse=True)
        return kind_of.reshape(-1).astype(np.uint8), columns

    @cached_property
    def head_class(self) -> Int32:
        """[S + 1]: states of one class allow the same texts, as far as ``ENDING_BYTES`` ahead."""
        ends = np.where(self.is_final, 2, 1)
        ends[self.dead] = 0
        return classes_ahead(ends, self.byte_kinds[1], ENDING_BYTES + 1)

    def classes_behind(self, num_bytes: int) -> Int32:
        """[S + 1]: by every text of at most ``num_bytes``, states of one class lead to states of one ``head_class``."""
        return classes_ahead(self.head_class, self.byte_kinds[1], num_bytes)

    @cached_property
    def _first_of_class(self) -> NDArray[np.int64]:
        return np.unique(self.head_class, return_index=True)[1]

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


def _edges(pattern: str) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """The first state of ``pattern``, the final ones, and its transitions [E, 3]: state, byte, state.

    Raises:
        ConstraintError: not a regular expression, or one of which a part matches nothing, or one that explodes.
    """
    problem = _python_problem(pattern)
    refused = ConstraintError(f"constraint pattern {pattern!r}: {problem or 'cannot be compiled'}; {_SYNTAX}")
    if not may_explode(pattern):
        try:
            first, finals, edges = byte_index.edges(byte_index.compile_index(pattern, is_python=not problem))
        except ValueError:
            raise refused from None
        return first, np.array(finals, dtype=np.int64), np.frombuffer(edges, dtype=np.int64).reshape(-1, 3)
    command = [sys.executable, byte_index.__file__, "other" if problem else "python"]
    done = subprocess.run(command, input=pattern.encode(), capture_output=True, check=False)
    if done.returncode == byte_index.NOT_AN_EXPRESSION:
        raise refused
    if done.returncode:
        raise ConstraintError(_explosion(pattern))
    flat = np.frombuffer(done.stdout, dtype=np.int64)
    first, finals, flat = int(flat[0]), flat[2 : 2 + flat[1]], flat[2 + flat[1] :]
    return first, finals, flat.reshape(-1, 3)


def _explosion(pattern: str) -> str:
    return (
        f"constraint pattern {pattern!r}: explodes, its automaton needs more than {MAX_STATES} states, "
        f"{byte_index.MAX_BYTES >> 20} MB or {byte_index.MAX_CPU_S:g} s; take smaller counts, '*' or '+' in their "
        "place, or no counts within counted groups"
    )


def _python_problem(pattern: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's warnings about nested sets
            re.compile(pattern)
    except re.error as error:
        return str(error)
    return None
