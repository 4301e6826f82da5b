"""Tokens that were added to a vocabulary, such as ``<think>``: the tokenizer finds them in a text before all else.

What stands before one and what stands after it are texts of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from tokenizers import AddedToken

from grpo_core.types import Bool


class AddedTokens:
    """``added`` by id, among tokens of ``bytes_of``."""

    def __init__(self, added: Mapping[int, AddedToken], bytes_of: Mapping[int, bytes]) -> None:
        self._bytes_of = bytes_of
        self.ids = frozenset(added)
        self._contents = tuple(token.content.encode() for token in added.values())
        self.are_plain = not any(token.lstrip or token.rstrip or token.single_word for token in added.values())
        """Whether none takes the blanks beside it, or stands as a word only."""
        self.longest = max(map(len, self._contents), default=0)
        self._beginnings = tuple({content[:cut] for content in self._contents for cut in range(1, len(content))})
        self.ends_in = lru_cache(maxsize=256)(self._find_ends_in)
        """[V]: the tokens whose text ends with one of the given ones."""
        self.completed_by = lru_cache(maxsize=4096)(self._find_completed_by)
        self._beginning_with = lru_cache(maxsize=256)(self._find_beginning_with)
        self.holders = frozenset(
            token
            for token, content in bytes_of.items()
            if token not in self.ids and any(each in content for each in self._contents)
        )
        """Tokens of the encoding that hold an added one, and so are never written."""

    def cut(self, ending: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        """``ending`` up to the first added token in it, and the texts before it with which it would make one."""
        places = [place for content in self._contents if (place := ending.find(content)) >= 0]
        before = {
            content[:cut]
            for content in self._contents
            for cut in range(1, len(content))
            if ending.startswith(content[cut:])
        }
        return ending[: min(places)] if places else ending, tuple(sorted(before))

    def _find_ends_in(self, texts: tuple[bytes, ...]) -> Bool:
        result = np.zeros(1 + max(self._bytes_of), dtype=np.bool_)
        result[[token for token, content in self._bytes_of.items() if content.endswith(texts)]] = True
        return result

    def is_begun_by(self, text: bytes) -> bool:
        """Whether ``text`` ends with the beginning of an added token."""
        return text.endswith(self._beginnings)

    def _find_completed_by(self, before: bytes) -> list[int]:
        """Tokens that complete an added one whose beginning ``before`` ends with."""
        if not self.is_begun_by(before):
            return []
        return self._beginning_with(
            tuple(
                content[cut:]
                for content in self._contents
                for cut in range(1, len(content))
                if before.endswith(content[:cut])
            )
        )

    def _find_beginning_with(self, texts: tuple[bytes, ...]) -> list[int]:
        return [token for token, content in self._bytes_of.items() if content.startswith(texts)]
