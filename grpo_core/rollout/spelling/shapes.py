"""The shapes of tokens, each found once: ``Pieces.shape`` of their text, with what they share with text around them.

Legend: V ids, N tokens that are asked for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cached_property, lru_cache

import numpy as np

from grpo_core.rollout.spelling.byte_text import is_stable, unfinished, whole
from grpo_core.rollout.spelling.pieces import CONTRACTED, Pieces
from grpo_core.rollout.spelling.token_texts import TokenTexts
from grpo_core.types import Bool, Int32


class Shapes:
    """The shapes of tokens with the bytes ``bytes_of``."""

    def __init__(self, pieces: Pieces, texts: TokenTexts, bytes_of: Mapping[int, bytes], *, normalises: bool) -> None:
        self._pieces, self._token_texts, self._bytes_of = pieces, texts, bytes_of
        self._normalises = normalises
        self.texts: list[str] = []
        """The shapes by index."""
        self.may_compose = np.zeros(texts.num, dtype=np.bool_)
        """[V]: whether a character that begins with the token may join what is before it."""
        self._indices: dict[str, int] = {}
        self._index_of_exact: dict[tuple[str, tuple[tuple[int, str], ...]], int] = {}
        self._of_whole = [np.full(texts.num, -1, dtype=np.int32) for _ in range(2)]  # plain, after an apostrophe
        self._of_partial: dict[tuple[bytes, int, bytes], int] = {}
        self._of_joined: dict[tuple[str, str], int] = {}
        self._parts_of = lru_cache(maxsize=1 << 14)(self._find_parts_of)

    def of(self, tokens: Int32, lead: bytes, tail: bytes, *, after_apostrophe: bool) -> Int32:
        """[N], indices into ``texts``: of ``tokens`` with the characters that they share with the text before them,
        which ends on ``lead``, and after them, which begins with ``tail``; -1 where these do not make a character, or
        one that normalisation changes, or after ``lead`` one that it may change."""
        if not lead and not tail:
            shapes = self._of_whole[after_apostrophe]
            missing = tokens[shapes[tokens] < 0]
            if after_apostrophe and len(missing):
                shapes[missing] = self.of(missing, b"", b"", after_apostrophe=False)
                missing = missing[self._is_contracting[missing]]
            for token in missing.tolist():
                shapes[token] = self._index(self._token_texts.text_of[token], after_apostrophe=after_apostrophe)
            return shapes[tokens]
        keys = ((lead, token, tail) for token in tokens.tolist())
        known = self._of_partial
        return np.array([known[key] if key in known else self._partial_shape(*key) for key in keys], dtype=np.int32)

    @cached_property
    def _is_contracting(self) -> Bool:
        """[V]: whether the shape of a whole token differs after an apostrophe."""
        result = np.zeros(self._token_texts.num, dtype=np.bool_)
        result[[token for token, text in self._token_texts.text_of.items() if self._pieces.is_kept_in(text)]] = True
        return result

    def _partial_shape(self, lead: bytes, token: int, tail: bytes) -> int:
        """As ``of``. Where normalisation may join the token and what is before it, ``may_compose`` says so."""
        before, rest = self._parts_of(token) if not lead else ("", lead + self._bytes_of[token])
        text = whole(rest + tail)
        is_free = text is not None and (not self._normalises or is_stable(before + text))
        shape = -1
        if text is not None and (is_free or (not lead and unicodedata.is_normalized("NFC", before + text))):
            self.may_compose[token] |= not is_free
            key = (before, self._pieces.exact(text)) if "'" not in before else (before, text)
            if key not in self._of_joined:
                self._of_joined[key] = self._index(before + text)
            shape = self._of_joined[key]
        self._of_partial[lead, token, tail] = shape
        return shape

    def _find_parts_of(self, token: int) -> tuple[str, bytes]:
        """The whole characters of ``token``, and the bytes after them."""
        content = self._bytes_of[token]
        rest = unfinished(content)
        before = whole(content[: len(content) - len(rest)])
        return ("", content) if before is None else (before, rest)

    def _index(self, text: str, *, after_apostrophe: bool = False) -> int:
        if after_apostrophe and not any(map(str.isalpha, text[:CONTRACTED])):
            after_apostrophe = False  # nothing that could belong to it
        is_near = after_apostrophe or "'" in text
        kept = self._pieces.kept(text, after_apostrophe=after_apostrophe) if is_near else ()
        key = (self._pieces.exact(text), kept)
        if key not in self._index_of_exact:
            shape = self._pieces.shape(text, after_apostrophe=after_apostrophe)
            if shape not in self._indices:
                self._indices[shape] = len(self._indices)
                self.texts.append(shape)
            self._index_of_exact[key] = self._indices[shape]
        return self._index_of_exact[key]
