"""Where a tokenizer splits text into pieces, before it encodes each: the same for all texts of one shape.

A shape has one letter for all lower-case ones, one mark for all that the splitting rules do not name, and no longer
runs of them than can matter. So the rules run for some thousand shapes of tokens, and not for each token anew.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

_LETTERS = {"Lu": "A", "Ll": "a", "Lt": "\u01c5", "Lm": "\u02b0", "Lo": "\u05d0"}
_NUMBERS = {"Nl": "\u2167", "No": "\u00b2"}
_MARKS = {"Mn": "\u0308", "Mc": "\u0903", "Me": "\u0489"}
_OTHER = "\u00a7"  # for punctuation and symbols outside of ASCII
_RUN = re.compile(r"(.)\1{2,}", re.DOTALL)
_LETTER_RUN = re.compile("([Aa\u01c5\u02b0\u05d0])\\1+")
_AFTER_APOSTROPHE = re.compile(r"'[^\W\d_]{1,2}")
CONTRACTED = 2  # letters after an apostrophe that may belong to it: 'll


class Pieces:
    """The splitting rules ``split``: a text to the ends of its pieces. ``named`` are the characters that they name."""

    def __init__(self, pre_tokenizer: Any, rules: str) -> None:
        self._pre_tokenizer = pre_tokenizer
        unnamed = [mark for mark in "#&%~;" if mark not in rules]
        self._marks = {ord(mark): unnamed[0] for mark in '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~' if mark not in rules}
        self._table = _Table(self._marks)

    def ends(self, text: str) -> frozenset[int]:
        """Where pieces of ``text`` end, in characters."""
        return frozenset(end for _, (_, end) in self._pre_tokenizer.pre_tokenize_str(text))

    def shape(self, text: str, *, after_apostrophe: bool = False) -> str:
        """The shape of ``text``. With ``after_apostrophe`` its first letters may belong to one before it."""
        kept = {place for match in _AFTER_APOSTROPHE.finditer(text) for place in range(*match.span())}
        if after_apostrophe:
            kept.update(range(CONTRACTED))
        if not kept:
            return self._short(text.translate(self._table))
        parts: list[str] = []
        start = 0
        for place in sorted(place for place in kept if place < len(text)):
            parts += [self._short(text[start:place].translate(self._table)), text[place]]
            start = place + 1
        return "".join([*parts, self._short(text[start:].translate(self._table))])

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

    def __init__(self, marks: dict[int, str]) -> None:
        super().__init__(marks)

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        found = _LETTERS.get(kind) or _NUMBERS.get(kind) or _MARKS.get(kind)
        if found is None and (code < 0x80 or character.isspace() or kind == "Cc"):
            found = "0" if character.isdecimal() else character
        self[code] = found or ("\u0663" if kind == "Nd" else _OTHER)
        return self[code]


Ends = Callable[[str], frozenset[int]]
