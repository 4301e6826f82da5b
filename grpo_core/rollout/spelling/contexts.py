"""What of the tokens so far decides which may follow: the text of the last piece, by its shape, and the last token."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from grpo_core.rollout.spelling.added_tokens import AddedTokens
from grpo_core.rollout.spelling.byte_text import unfinished, whole
from grpo_core.rollout.spelling.pieces import CONTRACTED, Pieces

_MAX_CONTEXTS = 1 << 16


@dataclass(frozen=True, slots=True)
class ContextKind:
    """Contexts of one kind are split alike, whatever follows: only the neighbours of their last token differ."""

    shape: str  # of the text from the last piece on
    edges: tuple[int, ...]  # where tokens end in it, as far as rules may still split it there
    joined: tuple[bool, ...]  # whether the tokens at each edge are neighbours
    is_partial: bool  # it ends within a character
    is_word: bool = False  # nothing splits it, nor a letter from it

    @property
    def has_apostrophe(self) -> bool:
        """Near its end: letters after it may belong to it."""
        return "'" in self.shape[-CONTRACTED:]


@dataclass(frozen=True, slots=True)
class Context:
    kind: ContextKind
    last: int | None  # its last token
    piece: bytes  # the text of its last piece
    text: bytes  # all of it, from the last added token on
    partial: bytes = b""  # of a character that is not complete yet


class Contexts:
    """Finds the ``Context`` of tokens. ``may_join`` says whether two tokens may stand side by side in a piece."""

    def __init__(
        self,
        bytes_of: Mapping[int, bytes],
        pieces: Pieces,
        may_join: Callable[[int, int], bool],
        *,
        added: AddedTokens,
        normalises: bool,
    ) -> None:
        self._bytes_of, self._pieces, self._may_join = bytes_of, pieces, may_join
        self._added, self._normalises = added, normalises
        self.of = lru_cache(maxsize=_MAX_CONTEXTS)(self._find)

    def _find(self, tokens: tuple[int, ...]) -> Context | None:
        """None where it is not known: the tokenizer would change it."""
        last = max((place for place, token in enumerate(tokens) if token in self._added.ids), default=-1)
        tokens = tokens[last + 1 :]
        if not tokens:
            return Context(ContextKind("", (), (), is_partial=False), None, b"", b"")
        content = b"".join(self._bytes_of[token] for token in tokens)
        partial = unfinished(content)
        text = whole(content[: len(content) - len(partial)])
        is_kept = text is not None and (not self._normalises or unicodedata.is_normalized("NFC", text))
        if text is None or not is_kept:
            return None
        ends = self._pieces.ends(text)
        start = ([0, *ends])[-2] if len(ends) > 1 else 0
        mark = text.rfind("'", max(0, len(text) - 3))
        if mark >= 0:
            start = max((end for end in (0, *ends) if end <= mark), default=0)
        tail = text[start:]
        is_word = tail[1:].isalpha() and (tail[:1].isalpha() or not tail[:1].isspace() or tail[:1] == " ")
        if is_word and mark < 0 and not partial:
            kind = ContextKind(self._pieces.shape(tail), (), (), is_partial=False, is_word=tail[-1:].isalpha())
            return Context(kind, tokens[-1], tail.encode(), content)
        edges, joined = self._edges(tokens, start)
        if mark < 0 and not partial and all(joined) and tail and not any(map(str.isspace, tail[1:] or tail)):
            return Context(
                ContextKind(self._pieces.shape(tail), (), (), is_partial=False), tokens[-1], tail.encode(), content
            )
        shape = self._pieces.exact(tail) if mark < 0 else tail
        return Context(ContextKind(shape, edges, joined, bool(partial)), tokens[-1], tail.encode(), content, partial)

    def _edges(self, tokens: tuple[int, ...], start: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Where tokens end after the character ``start``, and whether those tokens are neighbours."""
        edges: list[int] = []
        joined: list[bool] = []
        content = b""
        for one, other in pairwise(tokens):
            content += self._bytes_of[one]
            before = whole(content)
            if before is not None and len(before) > start:
                edges.append(len(before) - start)
                joined.append(self._may_join(one, other))
        return tuple(edges), tuple(joined)
