"""Constrain a completion to a regular expression, in the tokenizer's own spelling.

A string can be cut into tokens in many ways, and a tokenizer gives one of them. Only that one is allowed here: for
every completion ``tokenizer.encode(text) == ids``, so a constrained policy is never trained on ids that it would not
meet in text. Two automata see to it:

- A language of at most ``MAX_STRINGS`` strings is written out. Each string is encoded, and their trie is the automaton.
- Otherwise tokens walk the expression's byte automaton. A token may follow when the tokenizer, given the text up to it
  and some text that the expression could still ask for, writes that very token. How a text splits is decided near its
  end, so the text is taken from the last word on, and what is found holds for every completion with that end.
"""

from __future__ import annotations

import re
import threading
import warnings
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from grpo_core.errors import ConstraintError
from grpo_core.model import Tokenizer
from grpo_core.rollout.constraint import Line, TrieNode, build_trie
from grpo_core.types import Int32

if TYPE_CHECKING:
    from outlines_core import Index
    from tokenizers import Tokenizer as Backend

MAX_STRINGS = 4096  # a language of no more is written out
MAX_ENDINGS = 12  # texts that are tried after a token, to see whether it can stand
ENDING_BYTES = 16  # of each; what follows later does not move the token's end
CONTEXT_TOKENS = 6  # to look back from a token, when there is no word or number nearer
LETTERS_SURE = 4  # into a word, no splitting rule minds how it began
MAX_CONTEXT_TOKENS = 16  # when the tokenizer does not even split there
MIN_BATCH = 2048  # texts to encode on all cores; fewer are faster on one
CACHED_IDS = 1 << 22  # of all nodes of one expression

_END = 0  # the byte that ends an expression inside; no completion has it
_NEVER = 255
_SYNTAX = (
    "allowed is the syntax of Rust's regex crate without look-around, back-references and anchors such as '^', '$' and "
    "'\\b' (all of a completion must match), in which every branch matches some text; rewrite it"
)


class Node(Protocol):
    """Where completions stand that may go on alike."""

    @property
    def ids(self) -> Line:
        """What may come next, ascending; nothing when the completion is whole."""
        ...

    def follow(self, token: int) -> Node: ...


@dataclass(frozen=True)
class RegexConstraint:
    """A completion matches all of ``pattern``. It ends with the stop id where it could also go on, else by itself."""

    pattern: str
    tokenizer: Tokenizer = field(repr=False)
    max_tokens: int | None = field(compare=False)  # no completion has more
    first: Node = field(repr=False, compare=False)

    def start(self) -> RegexCursor:
        return RegexCursor(self.first)


class RegexCursor:
    """Where one completion stands in its expression."""

    def __init__(self, first: Node) -> None:
        self._node = first

    @property
    def finished(self) -> bool:
        return not self._node.ids

    def allowed(self) -> Sequence[int]:
        """Ids that may come next, ascending, at least one unless ``finished``."""
        return self._node.ids

    def advance(self, token: int) -> None:
        """Take ``token``, which ``allowed`` named. Raises KeyError for any other."""
        self._node = self._node.follow(token)


@lru_cache(maxsize=256)
def compile_regex(pattern: str, tokenizer: Tokenizer) -> RegexConstraint:
    """The constraint of ``pattern``, in the syntax of Rust's ``regex`` crate, which is Python's but for look-around.

    Raises:
        ConstraintError: not such an expression, or no text but the empty one matches it that the tokenizer can write.
    """
    spelling = spelling_of(tokenizer)
    automaton = ByteAutomaton.compile(pattern)
    strings = automaton.strings()
    if strings is None:
        first: Node | None = TokenAutomaton(spelling, automaton).first()
        max_tokens = automaton.max_bytes
    else:
        lines = _lines(strings, spelling, tokenizer.stop_id)
        first = build_trie(lines) if lines else None
        max_tokens = max(map(len, lines), default=0)
    if first is None:
        raise ConstraintError(
            f"constraint pattern {pattern!r}: matches no text that the tokenizer can write, or the empty one only; "
            "allowed is an expression with at least one other match; widen it"
        )
    return RegexConstraint(pattern, tokenizer, max_tokens, first)


def _lines(strings: Sequence[bytes], spelling: Spelling, stop_id: int) -> list[Line]:
    """The tokens of ``strings``, with the stop id where others go on. Empty without a string to write."""
    lines = {line for text in strings if (line := spelling.encode(text)) is not None}
    beginnings = {line[:end] for line in lines for end in range(len(line))}
    if lines <= {()}:
        return []
    return [(*line, stop_id) if line in beginnings else line for line in sorted(lines)]


class Spelling:
    """The bytes of each id of a byte-level tokenizer, and the ids that it writes for bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.stop_id = tokenizer.stop_id
        self._backend: Backend = tokenizer._tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        self.bytes_of = _token_bytes(self._backend)
        self.bytes_of.pop(self.stop_id, None)

    def encode(self, text: bytes) -> Line | None:
        """The ids of ``text``; None when they spell another one (normalised, or with special tokens)."""
        ids = tuple(self._backend.encode(text.decode(), add_special_tokens=False).ids)
        pieces = [self.bytes_of.get(token) for token in ids]
        return ids if None not in pieces and b"".join(piece for piece in pieces if piece) == text else None

    def encode_all(self, texts: Sequence[bytes]) -> list[list[int]]:
        """The ids of ``texts``, each cut back to whole characters."""
        strings = [text.decode(errors="ignore") for text in texts]
        if len(strings) < MIN_BATCH:
            return [self._backend.encode(text, add_special_tokens=False).ids for text in strings]
        return [item.ids for item in self._backend.encode_batch_fast(strings, add_special_tokens=False)]

    @cached_property
    def matrix(self) -> tuple[NDArray[np.uint8], Int32, Int32]:
        """Bytes [N, longest], lengths [N] and ids [N] of the tokens, longest first."""
        ids = sorted(self.bytes_of, key=lambda token: -len(self.bytes_of[token]))
        lengths = np.array([len(self.bytes_of[token]) for token in ids], dtype=np.int32)
        matrix = np.zeros((len(ids), int(lengths[0])), dtype=np.uint8)
        for row, token in enumerate(ids):
            matrix[row, : lengths[row]] = np.frombuffer(self.bytes_of[token], dtype=np.uint8)
        return matrix, lengths, np.array(ids, dtype=np.int32)

    def context(self, line: Line, ending: bytes) -> Line:
        """The end of ``line``, when ``ending`` follows, that decides how a text splits which goes on from there.

        Splitting rules look ahead but not back: they start anew where a piece starts. What follows can still move that
        place while it is among blanks or marks, or after an apostrophe ("'l", "'ll"), so the end is taken from a word
        or number on, or from well inside a word.
        """
        pieces = [self.bytes_of[token] for token in line]
        words = self._backend.encode((b"".join(pieces) + ending).decode(errors="ignore")).word_ids
        into_word = [0]  # bytes of the tokenizer's piece before each token
        for place in range(1, len(line)):
            is_same = words[place] == words[place - 1]
            into_word.append(into_word[-1] + len(pieces[place - 1]) if is_same else 0)
        for start in range(len(line) - 1, 0, -1):
            if pieces[start][0] & 0xC0 == 0x80:  # within a character
                continue
            text, before = (pieces[place].decode(errors="ignore") for place in (start, start - 1))
            size, has_letter = len(line) - start, any(map(str.isalpha, text))
            if into_word[start] == 0:
                is_after_mark = not before[-1:].isalnum() and not before[-1:].isspace()
                is_word = has_letter or text[:1].isalnum()
                stands = size >= CONTEXT_TOKENS or (is_word and not (text[:1].isalnum() and is_after_mark))
            else:
                stands = has_letter and into_word[start] >= LETTERS_SURE
            if stands or size >= MAX_CONTEXT_TOKENS:
                return line[start:]
        return line


@lru_cache(maxsize=8)
def spelling_of(tokenizer: Tokenizer) -> Spelling:
    """The spelling of ``tokenizer``.

    Raises:
        ConstraintError: its tokens are not byte strings.
    """
    return Spelling(tokenizer)


def _token_bytes(backend: Backend) -> dict[int, bytes]:
    """Bytes of each id but those of special tokens.

    A byte-level vocabulary writes each byte as one printable character: itself where it is one, else the next free one
    from U+0100 on (Radford et al. 2019).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
    added = backend.get_added_tokens_decoder()
    pieces: dict[int, bytes] = {}
    for text, token in backend.get_vocab(with_added_tokens=True).items():
        if token in added:
            if not added[token].special:
                pieces[token] = text.encode()
        elif text and all(letter in byte_of for letter in text):
            pieces[token] = bytes(byte_of[letter] for letter in text)
        else:
            raise ConstraintError(
                f"constraint pattern: the tokenizer's token {text!r} is not a string of bytes; patterns need a "
                "byte-level BPE tokenizer (Qwen2, Qwen3, Llama 3); give choices instead of a pattern"
            )
    return pieces


class ByteAutomaton:
    """The deterministic automaton of an expression over the bytes of UTF-8, without states that lead nowhere.

    ``table`` [S + 1, 256] has the next state of each state and byte; ``dead``, its last row, stands for none.
    State 0 is the first one. ``is_final`` [S + 1].
    """

    def __init__(self, table: Int32, is_final: NDArray[np.bool_]) -> None:
        self.table, self.is_final = table, is_final
        self.dead = len(table) - 1
        self._next_byte, distances = self._shortest_ways()
        lost = distances < 0
        self.table[lost] = self.dead
        self.table[lost[self.table]] = self.dead
        self._endings: dict[int, tuple[bytes, ...]] = {}

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
        """The byte to take from each state [S + 1] to its nearest end, and how many there are; negative when none."""
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
        """States from the first one on, each before those that it leads to; None when there is a cycle."""
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

    def strings(self) -> list[bytes] | None:
        """All matches, None when they are more than ``MAX_STRINGS``."""
        if self._order is None:
            return None
        counts = np.zeros(len(self.table), dtype=np.int64)
        for state in reversed(self._order):
            counts[state] = min(int(self.is_final[state]) + int(counts[self.table[state]].sum()), MAX_STRINGS + 1)
        return None if counts[0] > MAX_STRINGS else list(self._walk())

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

    def endings(self, state: int) -> tuple[bytes, ...]:
        """At most ``MAX_ENDINGS`` texts that lead from ``state`` to an end, which differ as early as they can."""
        if state not in self._endings:
            texts: list[bytes] = []
            beginnings = [(state, b"")]
            while beginnings and len(beginnings[0][1]) < ENDING_BYTES and len(texts) + len(beginnings) < MAX_ENDINGS:
                texts += [text for at, text in beginnings if self.is_final[at]]
                longer = ([(target, text + byte) for byte, target in self._branches(at)] for at, text in beginnings)
                beginnings = [item for turn in zip_longest(*longer) for item in turn if item is not None]
            texts += [text + self.shortest_ending(at) for at, text in beginnings[:MAX_ENDINGS]]
            self._endings[state] = tuple(dict.fromkeys(texts))[:MAX_ENDINGS]
        return self._endings[state]

    def _branches(self, state: int) -> list[tuple[bytes, int]]:
        """The bytes that may follow and their states, one of each kind in turn."""
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

    Without an end the library prefers what comes first, as a search does: 'a|ab' would not match 'ab'.

    Raises:
        ConstraintError: not a regular expression, or one of which a part matches nothing.
    """
    from outlines_core import Index, Vocabulary

    single_bytes = Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
    problem = _python_problem(pattern)
    try:
        if problem:  # or a syntax that Python does not know, such as \p{L}; alone, lest a bracket closes ours
            Index(pattern, single_bytes)
        return Index(f"(?:{pattern})\\x{_END:02}", single_bytes)
    except ValueError:
        what = problem or "cannot be compiled"
        raise ConstraintError(f"constraint pattern {pattern!r}: {what}; {_SYNTAX}") from None


def _python_problem(pattern: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's own remarks about a set in a set
            re.compile(pattern)
    except re.error as error:
        return str(error)
    return None


class TokenAutomaton:
    """What tokens may do in a ``ByteAutomaton``. Its nodes are made when they are first reached, and some forgotten."""

    def __init__(self, spelling: Spelling, automaton: ByteAutomaton) -> None:
        self.spelling = spelling
        self.bytes = automaton
        self._nodes: OrderedDict[tuple[int, Line, Line | None], TokenNode | None] = OrderedDict()
        self._num_ids = 0
        self._lock = threading.Lock()
        self._moves = lru_cache(maxsize=64)(self._find_moves)
        self.context = lru_cache(maxsize=65536)(spelling.context)

    def first(self) -> TokenNode | None:
        """The node of the empty text; None when the tokenizer cannot write any other."""
        node = self.node(0, (), None)
        if node is not None and node.ids:
            return node
        lines = (self.spelling.encode(text) for text in self.bytes.endings(0))
        return next((self.node(0, (), line) for line in lines if line), None)

    def node(self, state: int, context: Line, rest: Line | None) -> TokenNode | None:
        """Where completions stand that have led to ``state`` and end with ``context``.

        None when no token was found that may follow, and no end. With ``rest``, tokens that are known to lead to an
        end, the first of them then follows.
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
            ConstraintError: they do not go on from there, which the beginning of the text did not show.
        """
        endings = self.bytes.endings(state)
        for ending in (*endings[turn:], *endings[:turn]):
            ids = self.spelling.encode(self.text(line) + ending)
            if ids is not None and ids[: len(line)] == line:
                return ids[len(line) :]
        raise ConstraintError(
            f"constraint pattern: after {self.text(line)!r} no text was found that the tokenizer writes as it began; "
            "give choices instead of a pattern, or a pattern with more than one way to go on"
        )

    def _build(self, state: int, context: Line, rest: Line | None) -> TokenNode | None:
        tokens, states = self._moves(state)
        turns = self._turns_that_hold(context, tokens, states)
        prefix = self.text(context)
        can_end = rest == () or (bool(self.bytes.is_final[state]) and self.spelling.encode(prefix) == context)
        held = np.flatnonzero(turns != _NEVER)
        if not len(held) and not can_end:
            if not rest:
                return None
            held = np.array([tokens.index(rest[0])])
        ids = [tokens[place] for place in held]
        states, turns = states[held], turns[held]
        if can_end and ids:
            place = bisect_left(ids, self.spelling.stop_id)
            ids.insert(place, self.spelling.stop_id)
            states, turns = np.insert(states, place, self.bytes.dead), np.insert(turns, place, 0)
        return TokenNode(self, context, rest, tuple(ids), states, turns)

    def _turns_that_hold(self, context: Line, tokens: Sequence[int], states: Int32) -> NDArray[np.uint8]:
        """For each token the first ending with which the tokenizer writes it after ``context``, or ``_NEVER``."""
        prefix, size = self.text(context), len(context)
        turns = np.full(len(tokens), _NEVER, dtype=np.uint8)
        left = list(range(len(tokens)))
        for turn in range(MAX_ENDINGS):
            tries = [(n, ends[turn]) for n in left if len(ends := self.bytes.endings(int(states[n]))) > turn]
            if not tries:
                break
            texts = [prefix + self.spelling.bytes_of[tokens[n]] + ending[:ENDING_BYTES] for n, ending in tries]
            left = []
            for (n, _), ids in zip(tries, self.spelling.encode_all(texts), strict=True):
                if ids[: size + 1] == [*context, tokens[n]]:
                    turns[n] = turn
                else:
                    left.append(n)
        return turns

    def _find_moves(self, state: int) -> tuple[list[int], Int32]:
        """Tokens that ``state`` can take, ascending, and the states that they lead to."""
        matrix, lengths, ids = self.spelling.matrix
        states = np.full(len(ids), state, dtype=np.int32)
        for column in range(matrix.shape[1]):
            rows = int(np.searchsorted(-lengths, -column, side="left"))  # those longer than ``column``
            states[:rows] = self.bytes.table[states[:rows], matrix[:rows, column]]
        alive = np.flatnonzero(states != self.bytes.dead)
        alive = alive[np.argsort(ids[alive])]
        return ids[alive].tolist(), states[alive]

    def text(self, line: Line) -> bytes:
        return b"".join(self.spelling.bytes_of[token] for token in line)


def _size(node: TokenNode | None) -> int:
    return 1 + len(node.ids if node is not None else ())


class TokenNode:
    """A node of a ``TokenAutomaton``. ``states`` and ``turns`` go with ``ids``: where each leads, and which of the
    endings there showed that it may stand.
    """

    __slots__ = ("_automaton", "_context", "_rest", "_states", "_turns", "ids")

    def __init__(
        self,
        automaton: TokenAutomaton,
        context: Line,
        rest: Line | None,
        ids: Line,
        states: Int32,
        turns: NDArray[np.uint8],
    ) -> None:
        self._automaton, self._context, self._rest = automaton, context, rest
        self.ids, self._states, self._turns = ids, states, turns

    def follow(self, token: int) -> Node:
        """The node after ``token``. Raises KeyError when it is none of ``ids``."""
        place = bisect_left(self.ids, token)
        if place == len(self.ids) or self.ids[place] != token:
            raise KeyError(token)
        automaton, state = self._automaton, int(self._states[place])
        if state == automaton.bytes.dead:  # it is the stop id
            return TrieNode()
        line = (*self._context, token)
        turn = int(self._turns[place])
        ending = automaton.text(self._rest[1:]) if self._rest else automaton.bytes.endings(state)[turn][:ENDING_BYTES]
        context = automaton.context(line, ending)
        if (node := automaton.node(state, context, None)) is not None:
            return node
        rest = self._rest[1:] if self._rest else automaton.rest(line, state, turn)
        node = automaton.node(state, context, rest)
        assert node is not None
        return node
