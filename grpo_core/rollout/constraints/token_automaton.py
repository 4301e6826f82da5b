"""A byte automaton lifted to tokens, each allowed where the tokenizer would write it.

A token is allowed when the tokenizer produces it, given the text before it and some text that the expression allows
after it: ``writing`` tries a few, and ``continuations`` looks on where these do not decide.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from grpo_core.errors import ConstraintError
from grpo_core.rollout.constraints.automaton.byte_automaton import ByteAutomaton
from grpo_core.rollout.constraints.continuations import Continuations
from grpo_core.rollout.constraints.ending_choices import NEVER, Numbers
from grpo_core.rollout.constraints.lines import Line, TrieNode
from grpo_core.rollout.constraints.moves import Moves
from grpo_core.rollout.constraints.token_bytes import TokenBytes
from grpo_core.rollout.constraints.writing import Writing
from grpo_core.types import Int32

CACHED_IDS = 1 << 22  # of all nodes of one expression


class Node(Protocol):
    """A state of an automaton over tokens. Completions in the same state have the same continuations."""

    @property
    def ids(self) -> Sequence[int] | Int32:
        """Ids that may come next, ascending; empty when the completion is complete."""
        ...

    def follow(self, token: int) -> Node: ...


class TokenAutomaton:
    """A ``ByteAutomaton`` lifted to tokens. Nodes are built when they are first reached, and kept in an LRU cache."""

    def __init__(self, token_bytes: TokenBytes, automaton: ByteAutomaton) -> None:
        self.token_bytes = token_bytes
        self.bytes = automaton
        self._nodes: OrderedDict[tuple[int, Line, Line | None], TokenNode | None] = OrderedDict()
        self._num_ids = 0
        self._lock = threading.Lock()
        self._moves = Moves(automaton, *token_bytes.matrix)
        self.writing = Writing(token_bytes, automaton)
        self._continuations = Continuations(automaton, self._moves, self.writing)
        self.context = lru_cache(maxsize=65536)(token_bytes.context)

    def first(self) -> TokenNode | None:
        """The node of the empty text; None when the tokenizer can produce no other text."""
        node = self.node(0, (), None)
        if node is not None and len(node.ids):
            return node
        lines = (self.token_bytes.encode(text) for text in self.writing.endings(0))
        return next((self.node(0, (), line) for line in lines if line), None)

    def node(self, state: int, context: Line, rest: Line | None) -> TokenNode | None:
        """The node of completions that have led to ``state`` and end with ``context``.

        None when no token was found that may follow, and the text cannot end. With ``rest``, tokens that are known to
        lead to an end, the first of them is allowed then.
        """
        key = (state, context, rest)
        with self._lock:
            if key not in self._nodes:
                node = self._nodes[key] = self._build(state, context, rest)
                self._num_ids += _size(node)
                while self._num_ids > CACHED_IDS and len(self._nodes) > 1:
                    self._num_ids -= _size(self._nodes.popitem(last=False)[1])
            self._nodes.move_to_end(key)
            return self._nodes[key]

    def rest(self, line: Line, state: int, choice: int) -> Line:
        """The tokens from ``line``, which has led to ``state``, to the end with which its last token was tried.

        Raises:
            ConstraintError: no ending has a tokenization that begins with ``line``.
        """
        endings = self.writing.endings(state)
        for ending in (*endings[choice:], *endings[:choice]):
            ids = self.token_bytes.encode(self.writing.text(line) + ending)
            if ids is not None and ids[: len(line)] == line:
                return ids[len(line) :]
        raise ConstraintError(
            f"constraint pattern: after {self.writing.text(line)!r} no ending was found that keeps the tokens so far; "
            "give choices instead of a pattern, or a pattern that allows more text there"
        )

    def _build(self, state: int, context: Line, rest: Line | None) -> TokenNode | None:
        tokens, choices = self.writing.choices_of(context, state, self._moves)
        continuations = dict(self._continuations.of(context, state, tokens, choices))
        prefix = self.writing.text(context)
        can_end = rest == () or (bool(self.bytes.is_final[state]) and self.token_bytes.encode(prefix) == context)
        held = choices != NEVER
        if not can_end and not held.any():
            if not rest:
                return None
            held = tokens == rest[0]
        ids, choices = tokens[held], choices[held]
        if can_end and len(ids):
            place = int(np.searchsorted(ids, self.token_bytes.stop_id))
            ids, choices = np.insert(ids, place, self.token_bytes.stop_id), np.insert(choices, place, 0)
        return TokenNode(self, (state, context, rest), ids, choices, continuations)


def _size(node: TokenNode | None) -> int:
    return 1 + len(node.ids if node is not None else ())


class TokenNode:
    """A node of a ``TokenAutomaton``, where ``at`` says. ``choices`` go with ``ids``: the index of the text with which
    the tokenizer produces each; ``continuations`` has other such texts.
    """

    __slots__ = ("_automaton", "_choices", "_context", "_continuations", "_rest", "_state", "ids")

    def __init__(
        self,
        automaton: TokenAutomaton,
        at: tuple[int, Line, Line | None],
        ids: Int32,
        choices: Numbers,
        continuations: dict[int, bytes],
    ) -> None:
        self._automaton = automaton
        self._state, self._context, self._rest = at
        self.ids, self._choices, self._continuations = ids, choices, continuations

    def follow(self, token: int) -> Node:
        """The node after ``token``. Raises KeyError when it is none of ``ids``."""
        place = int(np.searchsorted(self.ids, token))
        if place == len(self.ids) or self.ids[place] != token:
            raise KeyError(token)
        automaton = self._automaton
        if token == automaton.token_bytes.stop_id:
            return TrieNode()
        state = automaton.writing.follow(self._state, token)
        line = (*self._context, token)
        choice = int(self._choices[place])
        context = automaton.context(line, self._text_after(token, state, choice))
        if (node := automaton.node(state, context, None)) is not None:
            return node
        rest = self._rest[1:] if self._rest else automaton.rest(line, state, choice)
        node = automaton.node(state, context, rest)
        assert node is not None
        return node

    def _text_after(self, token: int, state: int, choice: int) -> bytes:
        """A text before which the tokenizer writes ``token``."""
        if self._rest:
            return self._automaton.writing.text(self._rest[1:])
        return (
            self._continuations[token] if token in self._continuations else self._automaton.writing.heads(state)[choice]
        )
