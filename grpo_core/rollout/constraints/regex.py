"""Constrain a completion to a regular expression, in the tokenizer's own tokenization.

A string has many tokenizations, and the tokenizer produces one of them, the canonical one. Only that one is allowed
here: for every completion ``tokenizer.encode(text) == ids``, so a constrained policy never trains on ids that it would
not meet in text. There are two automata:

- A language of at most ``MAX_STRINGS`` strings is enumerated. Each string is encoded, and their trie is the automaton.
- Otherwise tokens walk the expression's byte automaton. A token is allowed when the tokenizer produces it, given the
  text before it and some text that the expression allows after it. Tokenization depends on the text near the end only,
  so the text is taken from the last word on, and the result is cached for every completion with that end.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from grpo_core.errors import ConstraintError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.byte_automaton import ENDING_BYTES, MAX_ENDINGS, ByteAutomaton
from grpo_core.rollout.constraints.lines import Line, TrieNode, build_trie
from grpo_core.rollout.constraints.spelling import NO, UNKNOWN, YES, Verdicts
from grpo_core.rollout.constraints.token_bytes import TokenBytes, token_bytes_of
from grpo_core.types import Int32

MAX_STRINGS = 4096  # larger languages are not enumerated
CACHED_IDS = 1 << 22  # of all nodes of one expression
ENCODED_ENDINGS = 12  # texts to try after a token where its spelling is found by encoding them
_NEVER = 255


class Node(Protocol):
    """A state of an automaton over tokens. Completions in the same state have the same continuations."""

    @property
    def ids(self) -> Sequence[int] | Int32:
        """Ids that may come next, ascending; empty when the completion is complete."""
        ...

    def follow(self, token: int) -> Node: ...


@dataclass(frozen=True)
class RegexConstraint:
    """A completion matches all of ``pattern``. It ends with the stop id where more could follow, else without one."""

    pattern: str
    tokenizer: Tokenizer = field(repr=False)
    max_tokens: int | None = field(compare=False)  # of the longest completion
    first: Node = field(repr=False, compare=False)

    def start(self) -> RegexCursor:
        """A cursor at the beginning of a completion."""
        return RegexCursor(self.first)


class RegexCursor:
    """The state of one completion in its expression."""

    def __init__(self, first: Node) -> None:
        self._node = first

    @property
    def finished(self) -> bool:
        return not len(self._node.ids)

    def allowed(self) -> Sequence[int] | Int32:
        """Ids that may come next, ascending, at least one unless ``finished``."""
        return self._node.ids

    def advance(self, token: int) -> None:
        """Take ``token``, which ``allowed`` named. Raises KeyError for any other."""
        self._node = self._node.follow(token)


@lru_cache(maxsize=256)
def compile_regex(pattern: str, tokenizer: Tokenizer) -> RegexConstraint:
    """The constraint of ``pattern``, in the syntax of Rust's ``regex`` crate, which is Python's without look-around.

    Raises:
        ConstraintError: not such an expression, or the tokenizer can produce no match but the empty text.
    """
    token_bytes = token_bytes_of(tokenizer)
    automaton = ByteAutomaton.compile(pattern)
    strings = automaton.strings(MAX_STRINGS)
    if strings is None:
        first: Node | None = TokenAutomaton(token_bytes, automaton).first()
        max_tokens = automaton.max_bytes
    else:
        lines = _lines(strings, token_bytes, tokenizer.stop_id)
        first = build_trie(lines) if lines else None
        max_tokens = max(map(len, lines), default=0)
    if first is None:
        raise ConstraintError(
            f"constraint pattern {pattern!r}: matches no text that the tokenizer can produce, or only the empty one; "
            "allowed is an expression with at least one other match; widen it"
        )
    return RegexConstraint(pattern, tokenizer, max_tokens, first)


def _lines(strings: Sequence[bytes], token_bytes: TokenBytes, stop_id: int) -> list[Line]:
    """The tokens of ``strings``, with the stop id where another string continues. Empty if none can be encoded."""
    lines = {line for text in strings if (line := token_bytes.encode(text)) is not None}
    beginnings = {line[:end] for line in lines for end in range(len(line))}
    if lines <= {()}:
        return []
    return [(*line, stop_id) if line in beginnings else line for line in sorted(lines)]


class TokenAutomaton:
    """A ``ByteAutomaton`` lifted to tokens. Nodes are built when they are first reached, and kept in an LRU cache."""

    def __init__(self, token_bytes: TokenBytes, automaton: ByteAutomaton) -> None:
        self.token_bytes = token_bytes
        self.bytes = automaton
        self._nodes: OrderedDict[tuple[int, Line, Line | None], TokenNode | None] = OrderedDict()
        self._num_ids = 0
        self._lock = threading.Lock()
        self._moves = lru_cache(maxsize=64)(self._find_moves)
        self.context = lru_cache(maxsize=65536)(token_bytes.context)

    def first(self) -> TokenNode | None:
        """The node of the empty text; None when the tokenizer can produce no other text."""
        node = self.node(0, (), None)
        if node is not None and len(node.ids):
            return node
        lines = (self.token_bytes.encode(text) for text in self.endings(0))
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

    def rest(self, line: Line, state: int, turn: int) -> Line:
        """The tokens from ``line``, which has led to ``state``, to the end with which its last token was tried.

        Raises:
            ConstraintError: no ending has a tokenization that begins with ``line``.
        """
        endings = self.endings(state)
        for ending in (*endings[turn:], *endings[:turn]):
            ids = self.token_bytes.encode(self.text(line) + ending)
            if ids is not None and ids[: len(line)] == line:
                return ids[len(line) :]
        raise ConstraintError(
            f"constraint pattern: after {self.text(line)!r} no ending was found that keeps the tokens so far; "
            "give choices instead of a pattern, or a pattern that allows more text there"
        )

    def _build(self, state: int, context: Line, rest: Line | None) -> TokenNode | None:
        tokens, states = self._moves(state)
        turns = self._turns_that_hold(context, tokens, states)
        prefix = self.text(context)
        can_end = rest == () or (bool(self.bytes.is_final[state]) and self.token_bytes.encode(prefix) == context)
        held = np.flatnonzero(turns != _NEVER)
        if not len(held) and not can_end:
            if not rest:
                return None
            held = np.flatnonzero(tokens == rest[0])
        ids, states, turns = tokens[held], states[held], turns[held]
        if can_end and len(ids):
            place = int(np.searchsorted(ids, self.token_bytes.stop_id))
            ids = np.insert(ids, place, self.token_bytes.stop_id)
            states, turns = np.insert(states, place, self.bytes.dead), np.insert(turns, place, 0)
        return TokenNode(self, context, rest, ids, states, turns)

    def _turns_that_hold(self, context: Line, tokens: Int32, states: Int32) -> NDArray[np.uint8]:
        """For each token the first ending with which the tokenizer produces it after ``context``, or ``_NEVER``."""
        turns = np.full(len(tokens), _NEVER, dtype=np.uint8)
        different, group_of = np.unique(states, return_inverse=True)
        endings = [self.endings(state) for state in different.tolist()]
        left = np.arange(len(tokens))
        for turn in range(MAX_ENDINGS):
            texts = [each[turn][:ENDING_BYTES] if len(each) > turn else None for each in endings]
            numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
            chosen = np.array([numbers[text] for text in texts], dtype=np.int32)[group_of[left]]
            tried = []
            for text, number in numbers.items():
                places = left[chosen == number]
                if text is None or not len(places):
                    continue
                verdicts = self._verdicts(context, tokens[places], text)
                turns[places[verdicts == YES]] = turn
                tried.append(places[verdicts == NO])
            if not tried:
                break
            left = np.sort(np.concatenate(tried))
        return turns

    def _verdicts(self, context: Line, tokens: Int32, ending: bytes) -> Verdicts:
        """As ``Spelling.verdicts``, where that does not know by encoding the text."""
        spelling = self.token_bytes.spelling
        verdicts = np.full(len(tokens), UNKNOWN, dtype=np.uint8)
        if spelling is not None:
            verdicts = spelling.verdicts(context, tokens, ending)
        unknown = np.flatnonzero(verdicts == UNKNOWN)
        prefix, size = self.text(context), len(context)
        texts = [prefix + self.token_bytes.bytes_of[token] + ending for token in tokens[unknown].tolist()]
        for place, ids in zip(unknown.tolist(), self.token_bytes.encode_all(texts), strict=True):
            verdicts[place] = YES if ids[: size + 1] == [*context, int(tokens[place])] else NO
        return verdicts

    def _find_moves(self, state: int) -> tuple[Int32, Int32]:
        """Tokens that ``state`` can take, ascending, and the states that they lead to."""
        matrix, lengths, ids, order = self._reachable
        states = np.full(len(ids), state, dtype=np.int32)
        for column in range(matrix.shape[0]):
            rows = int(np.searchsorted(-lengths, -column, side="left"))  # those longer than ``column``
            states[:rows] = self.bytes.table[states[:rows], matrix[column, :rows]]
        states = states[order]
        alive = states != self.bytes.dead
        return ids[order][alive], states[alive]

    @cached_property
    def _reachable(self) -> tuple[NDArray[np.uint8], Int32, Int32, NDArray[np.int64]]:
        """Of the tokens with bytes that the expression has anywhere: bytes [longest, N], lengths, ids, and the order
        by id."""
        matrix, lengths, ids = self.token_bytes.matrix
        is_used = (self.bytes.table[:-1] != self.bytes.dead).any(axis=0)
        fits = is_used[matrix] | (np.arange(matrix.shape[1]) >= lengths[:, None])
        kept = fits.all(axis=1)
        matrix, lengths, ids = matrix[kept], lengths[kept], ids[kept]
        longest = int(lengths[0]) if len(lengths) else 0
        return np.ascontiguousarray(matrix[:, :longest].T), lengths, ids, np.argsort(ids)

    def endings(self, state: int) -> tuple[bytes, ...]:
        """Texts that lead from ``state`` to an end: fewer where each must be encoded."""
        return self.bytes.endings(state, MAX_ENDINGS if self.token_bytes.spelling is not None else ENCODED_ENDINGS)

    def text(self, line: Line) -> bytes:
        return b"".join(self.token_bytes.bytes_of[token] for token in line)


def _size(node: TokenNode | None) -> int:
    return 1 + len(node.ids if node is not None else ())


class TokenNode:
    """A node of a ``TokenAutomaton``. ``states`` and ``turns`` go with ``ids``: the state that each leads to, and the
    index of the ending there with which the tokenizer produces it.
    """

    __slots__ = ("_automaton", "_context", "_rest", "_states", "_turns", "ids")

    def __init__(
        self,
        automaton: TokenAutomaton,
        context: Line,
        rest: Line | None,
        ids: Int32,
        states: Int32,
        turns: NDArray[np.uint8],
    ) -> None:
        self._automaton, self._context, self._rest = automaton, context, rest
        self.ids, self._states, self._turns = ids, states, turns

    def follow(self, token: int) -> Node:
        """The node after ``token``. Raises KeyError when it is none of ``ids``."""
        place = int(np.searchsorted(self.ids, token))
        if place == len(self.ids) or self.ids[place] != token:
            raise KeyError(token)
        automaton, state = self._automaton, int(self._states[place])
        if state == automaton.bytes.dead:  # it is the stop id
            return TrieNode()
        line = (*self._context, token)
        turn = int(self._turns[place])
        ending = automaton.text(self._rest[1:]) if self._rest else automaton.endings(state)[turn][:ENDING_BYTES]
        context = automaton.context(line, ending)
        if (node := automaton.node(state, context, None)) is not None:
            return node
        rest = self._rest[1:] if self._rest else automaton.rest(line, state, turn)
        node = automaton.node(state, context, rest)
        assert node is not None
        return node
