"""With which of several endings the tokenizer writes a token, kept for all contexts of one kind.

Legend: V ids, N tokens that are asked for.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from grpo_core.rollout.spelling.contexts import Context, ContextKind
from grpo_core.rollout.spelling.spelling import Following, Spelling
from grpo_core.rollout.spelling.token_texts import NEVER_WRITTEN, PARTIAL, UNKNOWN_KIND
from grpo_core.types import Bool, Int32

NEARLY, UNKNOWN, NEVER = 253, 254, 255
"""In place of an ending's index: none, but perhaps another text; the tokenizer must be asked; no text at all."""
_MISSING = 252
_WIDE = 2048  # fewer tokens are kept as they were asked for
_MAX_FEW = 2048
_MAX_LEDGERS = 192  # of 2 V bytes each
_HEAD = re.compile(r"\s*(?:[^\W\d_]|.{0,3})", re.DOTALL)
"""The beginning of an ending that decides how the rules split what is before it."""
_RUN = re.compile(r"(.)\1\1+", re.DOTALL)

Numbers = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Ledger:
    """The first ending with which each token holds where a piece begins with it, and where it joins the last one."""

    starting: Numbers  # [V]
    joining: Numbers  # [V]


@dataclass(frozen=True, slots=True)
class EndingText:
    """One of the endings."""

    choice: int
    following: Following
    head: tuple[bytes, str]  # see ``_HEAD``


class EndingChoices:
    """Asks ``spelling`` for one ending after the other, until each token has one."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._settled: list[bool] = []  # of each shape, see ``_is_settled``
        self._few: OrderedDict[tuple[ContextKind, tuple[bytes, ...], bytes], tuple[Numbers, Numbers]] = OrderedDict()
        self.texts = lru_cache(maxsize=1024)(self._find_texts)
        self._ledgers: OrderedDict[tuple[ContextKind, tuple[bytes, ...]], _Ledger] = OrderedDict()

    def numbers(self, found: Context, tokens: Int32, endings: tuple[bytes, ...]) -> tuple[Numbers, Numbers]:
        """[N] each: the index of the first of ``endings`` before which the tokenizer writes each of ``tokens``, where a
        piece begins with it and where it joins the last one; or ``NEARLY``, ``UNKNOWN`` or ``NEVER``.

        All ``endings`` begin within a character, or none does. The effect of one of them at least is known.
        """
        if len(tokens) < _WIDE:  # patterns with counts ask for the same few from each of their states
            key = (found.kind, endings, tokens.tobytes())
            if key not in self._few:
                self._few[key] = self._ask(found, tokens, endings)
                if len(self._few) > _MAX_FEW:
                    self._few.popitem(last=False)
            return self._few[key]
        ledger = self._ledger(found.kind, endings)
        missing = tokens[ledger.starting[tokens] == _MISSING]
        if len(missing):
            ledger.starting[missing], ledger.joining[missing] = self._ask(found, missing, endings)
        return ledger.starting[tokens], ledger.joining[tokens]

    def _find_texts(self, endings: tuple[bytes, ...]) -> tuple[EndingText, ...]:
        """Those of ``endings`` whose effect is known."""
        spelling = self._spelling
        found: list[EndingText] = []
        for choice, ending in enumerate(endings):
            if (following := spelling.following(ending)) is not None:
                head = _HEAD.match(spelling.pieces.exact(following.text))
                assert head is not None
                found.append(EndingText(choice, following, (following.tail, _RUN.sub(r"\1\1", head[0]))))
        return tuple(found)

    def _ledger(self, kind: ContextKind, endings: tuple[bytes, ...]) -> _Ledger:
        key = (kind, endings)
        if key not in self._ledgers:
            numbers = np.full(self._spelling.texts.num, _MISSING, dtype=np.uint8)
            self._ledgers[key] = _Ledger(numbers, numbers.copy())
            if len(self._ledgers) > _MAX_LEDGERS:
                self._ledgers.popitem(last=False)
        self._ledgers.move_to_end(key)
        return self._ledgers[key]

    def _ask(self, found: Context, tokens: Int32, endings: tuple[bytes, ...]) -> tuple[Numbers, Numbers]:
        """[N] each, as ``_Ledger``."""
        spelling = self._spelling
        texts = self.texts(endings)
        is_open = bool(texts[0].following.tail)
        kinds = spelling.texts.kinds[tokens]
        is_unknown = kinds == UNKNOWN_KIND if is_open else (kinds == UNKNOWN_KIND) | (kinds == PARTIAL)
        starting = np.where(is_unknown, UNKNOWN, NEVER).astype(np.uint8)
        joining = starting.copy()
        left = np.flatnonzero(~is_unknown & (kinds != NEVER_WRITTEN))
        shapes = np.full(len(tokens), -1, dtype=np.int32)
        if not is_open:
            shapes[left] = spelling.shapes(found, tokens[left], b"")
        again = left[:0]  # those that hold but for what follows, where another text may do
        heads: set[tuple[bytes, str]] = set()
        for text in texts:
            asked = again if text.head in heads else left
            heads.add(text.head)
            if is_open:
                shapes[asked] = spelling.shapes(found, tokens[asked], text.following.tail)
            asked = asked[shapes[asked] >= 0]
            if not len(asked):
                continue
            rule = spelling.rule(found, tokens[asked], shapes[asked], text.following)
            for numbers, chosen in ((starting, rule.starts), (joining, ~rule.starts)):
                _lower(numbers, asked[chosen & rule.holds], text.choice)
                _lower(numbers, asked[chosen & rule.nearly], NEARLY)
            best = np.minimum(starting[left], joining[left])
            again = left[best == NEARLY]
            if not is_open:  # where it joins, a piece may yet begin with it before another text
                best = np.where(self._is_settled(found)[shapes[left]], best, starting[left])
            left = left[best >= NEARLY]
            if not len(left):
                break
        return starting, joining

    def _is_settled(self, found: Context) -> Bool:
        """Whether a letter near the start of each shape decides if a piece begins with it, whatever follows."""
        shapes = self._spelling.shapes_of.texts
        if found.kind.has_apostrophe:
            return np.zeros(len(shapes), dtype=np.bool_)
        for shape in shapes[len(self._settled) :]:
            self._settled.append(any(map(str.isalpha, shape[:2])))
        return np.array(self._settled, dtype=np.bool_)


def _lower(numbers: Numbers, places: NDArray[np.int64], value: int) -> None:
    numbers[places] = np.minimum(numbers[places], value)
