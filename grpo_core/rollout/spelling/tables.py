"""What the splitting rules say of a token between a context and a text, kept by their shapes.

Legend: K shapes of tokens, N tokens that are asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo_core.rollout.spelling.contexts import ContextKind
from grpo_core.rollout.spelling.pieces import Pieces
from grpo_core.rollout.spelling.shapes import Shapes
from grpo_core.types import Int32

ALIGNED, STARTS, ENDS = 1, 2, 4
"""The rules split neither the token nor what is before it otherwise than before; a piece begins and ends with it."""
_MISSING = 255
_MAX_TABLES = 2048


@dataclass(slots=True)
class Table:
    """What the rules say of each shape of token, between contexts of one kind and one text."""

    codes: NDArray[np.uint8]  # [K]
    rest: Int32  # [K]: the text after it in its piece, as an index of ``rests``; -1: none
    rests: list[bytes]  # without the tail, so all tails share them

    def grow(self, num: int) -> None:
        more = num - len(self.codes)
        if more:
            self.codes = np.concatenate([self.codes, np.full(more, _MISSING, np.uint8)])
            self.rest = np.concatenate([self.rest, np.full(more, -1, np.int32)])

    def text_after(self, shape: int, tail: bytes) -> bytes:
        """The text after a token of ``shape`` in its piece, which begins with ``tail``."""
        return tail + self.rests[self.rest[shape]] if self.rest[shape] >= 0 else b""


class Tables:
    """Asks the rules of ``pieces`` for each shape when it first occurs."""

    def __init__(self, pieces: Pieces, shapes: Shapes) -> None:
        self._pieces, self._shapes = pieces, shapes
        self._tables: OrderedDict[tuple[ContextKind, bool, str], Table] = OrderedDict()

    def of(self, kind: ContextKind, text: str, shapes: Int32, *, is_open: bool) -> Table:
        """The table of contexts of ``kind`` and of ``text``, which has ``shapes`` [N].

        With ``is_open`` the token's last character ends after it, with a tail before ``text``.
        """
        key = (kind, is_open, text)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = Table(np.zeros(0, np.uint8), np.zeros(0, np.int32), [])
            if len(self._tables) > _MAX_TABLES:
                self._tables.popitem(last=False)
        table.grow(len(self._shapes.texts))
        present = np.flatnonzero(np.bincount(shapes))  # faster than sorting them
        for shape in present[table.codes[present] == _MISSING].tolist():
            self._ask(table, kind, text, shape, is_open=is_open)
        return table

    def _ask(self, table: Table, kind: ContextKind, text: str, shape: int, *, is_open: bool) -> None:
        before, token = len(kind.shape), self._shapes.texts[shape]
        content = kind.shape + token + text
        ends = self._pieces.ends(content)
        after = before + len(token)
        first, last = bisect_left(ends, before), bisect_left(ends, after)  # those within the token
        is_cut_before = ends[first : first + 1] == (before,)
        is_split = last - first > is_cut_before
        code = ALIGNED if not is_split and _fits(kind, ends[: first + (kind.is_partial and is_cut_before)]) else 0
        code |= STARTS if not kind.is_partial and (before == 0 or is_cut_before) else 0
        code |= ENDS if not is_open and ends[last : last + 1] == (after,) else 0
        if code & ALIGNED and not code & ENDS:
            rest = content[after : ends[last]].encode()
            if rest not in table.rests:
                table.rests.append(rest)
            table.rest[shape] = table.rests.index(rest)
        table.codes[shape] = code


def _fits(kind: ContextKind, splits: tuple[int, ...]) -> bool:
    """Whether tokens of ``kind`` end where the rules split it, and are neighbours where these do not."""
    return set(splits) <= set(kind.edges) and all(
        is_joined or edge in splits for edge, is_joined in zip(kind.edges, kind.joined, strict=True)
    )
