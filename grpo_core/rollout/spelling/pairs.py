"""The neighbours of tokens, kept packed for the tokens that were asked for last.

Legend: V ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from grpo_core.rollout.spelling.bpe_pairs import NEVER, Merges, Neighbours
from grpo_core.types import Bool

_MAX_PACKED, _MAX_UNPACKED = 2048, 32  # of V bits each, and of V bytes
_FEW_SHARE = 8  # fewer ids than V over this are looked up in the packed bits


class Pairs:
    """Which tokens of ``merges`` and its ``vocab`` may be neighbours, among ``num`` ids."""

    def __init__(self, merges: Merges, vocab: Mapping[str, int], num: int) -> None:
        self._merges, self._num = merges, num
        self._neighbours = tuple(Neighbours(merges, is_left=is_left) for is_left in (False, True))
        self._byte_ids = {byte: vocab[letter] for byte, letter in _letters().items()}
        self._packed = lru_cache(maxsize=_MAX_PACKED)(self._pack)
        self._unpacked = lru_cache(maxsize=_MAX_UNPACKED)(self._unpack)
        self.first_token = lru_cache(maxsize=1 << 14)(self._find_first_token)

    def right_of(self, token: int) -> Bool:
        """[V]: which tokens may stand right of ``token`` in its piece."""
        return self._unpacked(token, False)

    def right_among(self, ids: NDArray[np.integer], token: int) -> Bool:
        """[N]: which of ``ids`` [N] may stand right of ``token``."""
        return self._among(ids, token, is_left=False)

    def left_among(self, ids: NDArray[np.integer], token: int) -> Bool:
        """[N]: which of ``ids`` [N] may stand left of ``token``."""
        return self._among(ids, token, is_left=True)

    def _among(self, ids: NDArray[np.integer], token: int, *, is_left: bool) -> Bool:
        if len(ids) * _FEW_SHARE > self._num:
            return self._unpacked(token, is_left)[ids]
        return (self._packed(token, is_left)[ids >> 3] << (ids & 7).astype(np.uint8) & 0x80).astype(np.bool_)

    def _find_first_token(self, text: bytes) -> int:
        """The first token of the encoding of ``text``, which is one piece or the rest of one."""
        symbols = [self._byte_ids[byte] for byte in text]
        while len(symbols) > 1:
            ranks = self._merges.lookup(np.array(symbols[:-1]), np.array(symbols[1:]))
            place = int(ranks.argmin())
            if ranks[place] == NEVER:
                break
            symbols[place : place + 2] = [int(self._merges.result[ranks[place]])]
        return symbols[0]

    def _pack(self, token: int, is_left: bool) -> NDArray[np.uint8]:
        return np.packbits(self._neighbours[is_left].of(token))

    def _unpack(self, token: int, is_left: bool) -> Bool:
        return np.unpackbits(self._packed(token, is_left), count=self._num).view(np.bool_)


def _letters() -> dict[int, str]:
    """How a byte-level vocabulary writes each byte (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}
