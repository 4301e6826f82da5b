"""What each token of a byte-pair encoding is: whole characters or parts, and whether merges make it."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from grpo_core.rollout.spelling.byte_text import is_stable, whole
from grpo_core.types import Bool

NEVER_WRITTEN, WHOLE, PARTIAL, COMPOSING, UNKNOWN_KIND = range(5)
"""Tokens that normalisation changes, whole characters, others, those that may join what stands before them, and ids
that are not of the encoding."""


class TokenTexts:
    """Of V tokens: those of the encoding, for which ``is_merged`` says whether merges make them from their own text,
    and those that were added to it.
    """

    def __init__(
        self, bytes_of: Mapping[int, bytes], is_merged: Bool, *, normalises: bool, ignores_merges: bool
    ) -> None:
        num = len(is_merged)
        self.num = max(num, 1 + max(bytes_of))
        self.is_merged = np.concatenate([is_merged, np.zeros(self.num - num, dtype=np.bool_)])
        self.kinds = np.full(self.num, UNKNOWN_KIND, dtype=np.uint8)
        self.kinds[:num] = NEVER_WRITTEN
        self.text_of: dict[int, str] = {}
        wholes: set[bytes] = set()
        own = {token: content for token, content in bytes_of.items() if token < num}
        for token, content in own.items():
            self.is_merged[token] |= len(content) == 1
            if not self.is_merged[token] and ignores_merges:
                wholes.add(content)
            text = whole(content)
            if text is None:
                self.kinds[token] = PARTIAL
            elif not normalises or is_stable(text):
                self.kinds[token] = WHOLE
                self.text_of[token] = text
            elif unicodedata.is_normalized("NFC", text):
                self.kinds[token] = COMPOSING
                self.text_of[token] = text
        self.wholes = frozenset(wholes)
        """The texts of tokens that the encoding takes as they are, though no merges make them."""
        self.beginnings = frozenset(text[:end] for text in wholes for end in range(1, len(text) + 1))
        self.is_cut = np.zeros(self.num, dtype=np.bool_)
        """Whether a whole begins with the token."""
        self.is_cut[[token for token, content in own.items() if content in self.beginnings]] = True
        self._sorted = sorted(wholes)
        self._id_of = {content: token for token, content in own.items()}
        self.ids_behind = lru_cache(maxsize=1024)(self._find_ids_behind)

    def _find_ids_behind(self, text: bytes) -> list[int]:
        """Tokens with which ``text`` may go on to a whole."""
        found: set[int] = set()
        for place in range(bisect_left(self._sorted, text), len(self._sorted)):
            candidate = self._sorted[place]
            if not candidate.startswith(text):
                break
            ends = range(len(text) + 1, len(candidate) + 1)
            found.update(self._id_of[part] for end in ends if (part := candidate[len(text) : end]) in self._id_of)
        return sorted(found)
