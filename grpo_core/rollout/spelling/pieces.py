"""Where a tokenizer splits text into pieces, before it encodes each: the same for all texts of one shape.

A shape has one character for all that the rules treat alike, and no longer runs of them than can matter. Which are
alike is found by trying: Qwen's rules treat all letters alike, those of gpt-oss not capitals and small letters. So the
rules run for some hundred shapes of tokens, and not for each token anew.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from typing import Any

_LETTERS = {"Lu": "A", "Ll": "a", "Lt": "\u01c5", "Lm": "\u02b0", "Lo": "\u05d0"}
_NUMBERS = {"Nl": "\u2167", "No": "\u00b2"}
_MARKS = {"Mn": "\u0308", "Mc": "\u0903", "Me": "\u0489"}
_OTHER = "\u00a7"  # for punctuation and symbols outside of ASCII
_ASCII_MARKS = (
    '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'  # the apostrophe, which may begin a piece of letters, stands for itself
)
_NEIGHBOURS = ("", "a", "A", "Aa", "0", " ", "  ", "\n", "#", "#\n", "\u0308", "'")
_RUN = re.compile(r"(.)\1{2,}", re.DOTALL)
_LETTER_RUN = re.compile("([Aa\u01c5\u02b0\u05d0])\\1+")
_AFTER_APOSTROPHE = re.compile(r"'[^\W\d_]{1,2}")
CONTRACTED = 2  # letters after an apostrophe that may belong to it: 'll


class Pieces:
    """The splitting rules of ``pre_tokenizer``: a text to the ends of its pieces."""

    def __init__(self, pre_tokenizer: Any) -> None:
        self._pre_tokenizer = pre_tokenizer
        self.ends = lru_cache(maxsize=1 << 16)(self._find_ends)
        self._contracting = self._find_contracting()
        self._table = _Table(self._alike(_ASCII_MARKS + _OTHER), self._alike("aA\u01c5\u02b0\u05d0"))

    def _alike(self, characters: Iterable[str]) -> dict[str, str]:
        """For each of ``characters`` the first that the rules treat like it."""
        first_of: dict[object, str] = {}
        return {each: first_of.setdefault(self._behaviour(each), each) for each in characters}

    def _behaviour(self, character: str) -> tuple[tuple[int, ...], ...]:
        """Where texts with ``character`` in them are split."""
        around = product(_NEIGHBOURS, (character, character * 2), _NEIGHBOURS)
        return tuple(self.ends("".join(parts)) for parts in around)

    def _find_ends(self, text: str) -> tuple[int, ...]:
        """Where pieces of ``text`` end, in characters, ascending."""
        return tuple(sorted({end for _, (_, end) in self._pre_tokenizer.pre_tokenize_str(text)}))

    def _find_contracting(self) -> frozenset[str]:
        """Letters that the rules treat otherwise than a, directly after an apostrophe: s, ll, re and so on."""
        letters = string.ascii_letters + "\u017f\u212a"  # the last two are an s and a k, if case does not matter
        plain = self.ends("x'aaa")
        pairs = [pair for pair in product(letters, repeat=2) if self.ends(f"x'{pair[0]}{pair[1]}a") != plain]
        return frozenset(letter for pair in pairs for letter in pair if self._is_contracting(letter, pairs))

    def _is_contracting(self, letter: str, pairs: list[tuple[str, ...]]) -> bool:
        """Whether it matters in one of ``pairs`` that it is this letter."""
        return any(
            letter in pair and tuple("a" if each == letter else each for each in pair) not in pairs for pair in pairs
        )

    def shape(self, text: str, *, after_apostrophe: bool = False) -> str:
        """The shape of ``text``. With ``after_apostrophe`` its first letters may belong to one before it."""
        exact = self.exact(text)
        parts: list[str] = []
        start = 0
        for place, character in self.kept(text, after_apostrophe=after_apostrophe):
            parts += [self._short(exact[start:place]), character]
            start = place + 1
        return "".join([*parts, self._short(exact[start:])])

    def kept(self, text: str, *, after_apostrophe: bool) -> tuple[tuple[int, str], ...]:
        """The places of ``text`` that its shape has as they are: apostrophes, and letters that may belong to them."""
        near = set(range(min(CONTRACTED, len(text)))) if after_apostrophe else set()
        if "'" in text:
            near.update(place for match in _AFTER_APOSTROPHE.finditer(text) for place in range(*match.span()))
        return tuple((place, text[place]) for place in sorted(near) if self._is_kept(text[place]))

    def is_kept_in(self, text: str) -> bool:
        """Whether the shape of ``text`` differs after an apostrophe."""
        return any(map(self._is_kept, text[:CONTRACTED]))

    def _is_kept(self, character: str) -> bool:
        return character in self._contracting or character == "'"

    def exact(self, text: str) -> str:
        """``text`` with one character for each of its own: places in it stay."""
        return text.translate(self._table)

    def _short(self, shape: str) -> str:
        return _RUN.sub(_three, _LETTER_RUN.sub(r"\1\1", shape))


def _three(match: re.Match[str]) -> str:
    mark = match[1]
    return match[0] if mark.isnumeric() else mark * 3  # rules may count digits


class _Table(dict[int, str]):
    """The shape of each character, found when it is first asked for."""

    def __init__(self, marks: dict[str, str], letters: dict[str, str]) -> None:
        super().__init__({ord(mark): first for mark, first in marks.items() if mark.isascii()})
        self._other = marks[_OTHER]
        self._letters = {kind: letters[letter] for kind, letter in _LETTERS.items()}

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        found = self._letters.get(kind) or _NUMBERS.get(kind) or _MARKS.get(kind)
        if found is None and (code < 0x80 or character.isspace() or kind == "Cc"):
            found = "0" if character.isdecimal() else character
        self[code] = found or ("\u0663" if kind == "Nd" else self._other)
        return self[code]
