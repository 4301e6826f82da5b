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

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from grpo_core.errors import ConstraintError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.automaton.byte_automaton import ByteAutomaton
from grpo_core.rollout.constraints.lines import Line, build_trie
from grpo_core.rollout.constraints.token_automaton import Node, TokenAutomaton
from grpo_core.rollout.constraints.token_bytes import TokenBytes, token_bytes_of
from grpo_core.types import Int32

MAX_STRINGS = 4096  # larger languages are not enumerated


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
