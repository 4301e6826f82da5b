"""Whether the tokenizer would write a token after a context and before some text, for all tokens at once.

It depends on three things. The splitting rules must not split the token, nor what is before it otherwise than before:
that is the same for all contexts, tokens and texts of one shape (``pieces``). Within a piece the token must be a
neighbour of the one before it, and of the one after it: that depends on two tokens alone (``bpe_pairs``). So what
depends on the context is kept by context, and not found again for each state of each expression.

Legend: V ids, N tokens that are asked for, K shapes of tokens.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from grpo_core.rollout.constraints.bpe_pairs import NEVER, Merges, Neighbours
from grpo_core.rollout.constraints.lines import Line
from grpo_core.rollout.constraints.pieces import CONTRACTED, Pieces
from grpo_core.types import Bool, Int32

NO, YES, UNKNOWN, IMPOSSIBLE = range(4)
_ALIGNED, _STARTS, _ENDS, _MISSING = 1, 2, 4, 255
_NEVER_WRITTEN, _WHOLE, _PARTIAL, _COMPOSING, _UNKNOWN_KIND = range(5)
"""Tokens that normalisation changes, whole characters, others, and those that may join what stands before them."""
_MAX_TABLES = 4096
_MAX_NEIGHBOURS = 1024  # of V bits each
_NUM_TRIALS, _TRIED_TOKENS = 200, 4

Verdicts = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Context:
    shape: str  # of the text from the last piece on
    edges: tuple[int, ...]  # where tokens end in it, as far as rules may still split it there
    joined: tuple[bool, ...]  # whether the tokens at each edge are neighbours
    last: int | None  # its last token
    piece: bytes  # its text
    partial: bytes  # of a character that is not complete yet
    is_word: bool = False  # nothing splits it, nor a letter from it


@dataclass(slots=True)
class _Table:
    """What the rules say of each shape of token, between one context and one text."""

    codes: Verdicts  # [K]
    following: Int32  # [K]: the token after it in its piece; -1: none
    rest: list[bytes]  # of that piece's text
    is_letter: Bool  # [K]: the shape begins with a letter

    def grow(self, num: int) -> None:
        more = num - len(self.rest)
        if more:
            self.codes = np.concatenate([self.codes, np.full(more, _MISSING, np.uint8)])
            self.following = np.concatenate([self.following, np.full(more, -1, np.int32)])
            self.rest += [b""] * more
            self.is_letter = np.concatenate([self.is_letter, np.zeros(more, np.bool_)])


class Spelling:
    """Of one tokenizer; ``open_spelling`` makes it."""

    def __init__(self, bytes_of: Mapping[int, bytes], backend: Backend, model: Mapping[str, Any], rules: str) -> None:
        self._bytes_of = bytes_of
        merges = Merges.of(model["vocab"], model["merges"])
        self._right, self._left = Neighbours(merges, is_left=False), Neighbours(merges, is_left=True)
        self._merges = merges
        self._byte_ids = {byte: model["vocab"][letter] for byte, letter in _letters().items()}
        self._normalises = backend.normalizer is not None
        self.pieces = Pieces(backend.pre_tokenizer, rules)
        self._num_ids = len(merges.rank)
        self._shapes: dict[str, int] = {}
        self._shape_texts: list[str] = []
        self._shape_of = [np.full(self._num_ids, -1, dtype=np.int32) for _ in range(2)]  # plain, after an apostrophe
        self._is_merged = merges.rank >= 0
        self._kinds = np.full(self._num_ids, _NEVER_WRITTEN, dtype=np.uint8)
        self._texts: dict[int, str] = {}
        self._partial_shapes: dict[tuple[bytes, int, bytes], int] = {}
        self._read_tokens(bool(model.get("ignore_merges")))
        self._context = lru_cache(maxsize=1 << 16)(self._find_context)
        self._tables: OrderedDict[tuple[Any, ...], _Table] = OrderedDict()
        self._first_token = lru_cache(maxsize=1 << 14)(self._find_first_token)
        self._neighbours = lru_cache(maxsize=_MAX_NEIGHBOURS)(self._find_neighbours)

    def _read_tokens(self, ignores_merges: bool) -> None:
        wholes: set[bytes] = set()
        for token, content in self._bytes_of.items():
            if token >= self._num_ids:
                continue
            self._is_merged[token] |= len(content) == 1
            if not self._is_merged[token] and ignores_merges:
                wholes.add(content)
            try:
                text = content.decode()
            except UnicodeDecodeError:
                self._kinds[token] = _PARTIAL
                continue
            if not self._normalises or _is_stable(text):
                self._kinds[token] = _WHOLE
                self._texts[token] = text
            elif unicodedata.is_normalized("NFC", text):
                self._kinds[token] = _COMPOSING
                self._texts[token] = text
        self._wholes = frozenset(wholes)
        beginnings = {text[:end] for text in wholes for end in range(len(text) + 1)}
        cut = [token for token, text in self._bytes_of.items() if text in beginnings]
        self._may_be_cut = np.array(cut, dtype=np.int64)

    def _shapes_of(self, tokens: Int32, lead: bytes, tail: bytes, *, after_apostrophe: bool) -> Int32:
        """[N], indices into ``_shape_texts``: of ``tokens`` with the characters that they share with the context and
        the text after them, which end on ``lead`` and begin with ``tail``; -1 where these do not make a character."""
        if not lead and not tail:
            shapes = self._shape_of[after_apostrophe]
            for token in tokens[shapes[tokens] < 0].tolist():
                shapes[token] = self._index(self._texts[token], after_apostrophe=after_apostrophe)
            return shapes[tokens]
        result = np.full(len(tokens), -1, dtype=np.int32)
        for place, token in enumerate(tokens.tolist()):
            key = (lead, token, tail)
            if key not in self._partial_shapes:
                text = _whole(lead + self._bytes_of[token] + tail)
                is_kept = text is not None and not (self._normalises and not _is_stable(text))
                self._partial_shapes[key] = self._index(text) if is_kept and text is not None else -1
            result[place] = self._partial_shapes[key]
        return result

    def _index(self, text: str, *, after_apostrophe: bool = False) -> int:
        shape = self.pieces.shape(text, after_apostrophe=after_apostrophe)
        if shape not in self._shapes:
            self._shapes[shape] = len(self._shapes)
            self._shape_texts.append(shape)
        return self._shapes[shape]

    def verdicts(self, context: Line, tokens: Int32, ending: bytes) -> Verdicts:
        """[N]: ``YES`` where the tokenizer writes each of ``tokens`` after ``context`` and before ``ending``, ``NO``
        where it writes others, ``IMPOSSIBLE`` where it does before any ending, ``UNKNOWN`` where that is not known.

        ``ending`` ends with a whole character. Where it begins within one, all ``tokens`` end within it.
        """
        found = self._context(context)
        num_open = next((place for place, byte in enumerate(ending) if byte & 0xC0 != 0x80), len(ending))
        text = _whole(ending[num_open:])
        if found is None or text is None or (self._normalises and not _is_stable(text)):
            return np.full(len(tokens), UNKNOWN, dtype=np.uint8)
        kinds = self._kinds[np.minimum(tokens, self._num_ids - 1)]
        kinds[tokens >= self._num_ids] = _UNKNOWN_KIND
        result = np.full(len(tokens), UNKNOWN, dtype=np.uint8)
        result[kinds == _NEVER_WRITTEN] = NO
        is_partial = bool(found.partial) or num_open > 0
        chosen = (kinds == _WHOLE) | ((kinds == _COMPOSING) | (kinds == _PARTIAL) if is_partial else False)
        if not is_partial:
            composing = np.flatnonzero(kinds == _COMPOSING)
            chosen[composing] = [self._stays(found, int(token)) for token in tokens[composing]]
            result[composing[~chosen[composing]]] = NO
        known = tokens[chosen]
        is_near = "'" in found.shape[-CONTRACTED:]
        shapes = self._shapes_of(known, found.partial, ending[:num_open], after_apostrophe=is_near)
        is_known = shapes >= 0
        known, shapes = known[is_known], shapes[is_known]
        result[np.flatnonzero(chosen)[is_known]] = self._judge(found, known, shapes, ending[:num_open], text)
        return result

    def _stays(self, found: _Context, token: int) -> bool:
        """Whether normalisation leaves ``token``, which begins with a mark for what stands before it."""
        return unicodedata.is_normalized("NFC", found.piece.decode() + self._texts[token])

    def _judge(self, found: _Context, known: Int32, shapes: Int32, tail: bytes, text: str) -> Verdicts:
        table = self._table(found, tail, text)
        self._complete(table, found, tail, text, shapes)
        codes = table.codes[shapes]
        starts, ends = (codes & _STARTS) > 0, (codes & _ENDS) > 0
        holds = (codes & _ALIGNED) > 0
        is_joined = np.ones(len(known), dtype=np.bool_)
        if found.last is not None:
            is_joined = self._neighbours(found.last, False)[known] & self._is_merged[found.last]
            holds &= starts | is_joined
        following = table.following[shapes]
        for token in np.unique(following[holds & ~ends]):
            if token >= 0:
                holds &= ends | (following != token) | self._neighbours(int(token), True)[known]
        holds &= self._is_merged[known] | (starts & ends & bool(self._wholes))
        self._forbid_wholes(holds, known, found, codes, table, shapes)
        verdicts = holds.astype(np.uint8)
        if found.is_word:
            verdicts[~is_joined & ~starts & table.is_letter[shapes]] = IMPOSSIBLE
        return verdicts

    def _forbid_wholes(
        self, holds: Bool, known: Int32, found: _Context, codes: Verdicts, table: _Table, shapes: Int32
    ) -> None:
        """A piece that is a token by itself is never merged, so it is not several tokens."""
        if not self._wholes:
            return
        for place in np.flatnonzero(np.isin(known, self._may_be_cut) & holds).tolist():
            code, shape = codes[place], shapes[place]
            is_whole = bool(code & _STARTS and code & _ENDS)
            before = b"" if code & _STARTS else found.piece + found.partial
            after = b"" if code & _ENDS else table.rest[shape]
            if not is_whole and before + self._bytes_of[int(known[place])] + after in self._wholes:
                holds[place] = False

    def _table(self, found: _Context, tail: bytes, text: str) -> _Table:
        key = (found.shape, found.edges, found.joined, bool(found.partial), tail, text)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = _Table(np.zeros(0, np.uint8), np.zeros(0, np.int32), [], np.zeros(0, np.bool_))
            if len(self._tables) > _MAX_TABLES:
                self._tables.popitem(last=False)
        return table

    def _complete(self, table: _Table, found: _Context, tail: bytes, text: str, shapes: Int32) -> None:
        """Ask the rules for the ``shapes`` that ``table`` does not have."""
        table.grow(len(self._shape_texts))
        missing = np.unique(shapes[table.codes[shapes] == _MISSING])
        before = len(found.shape)
        for shape in missing.tolist():
            token = self._shape_texts[shape]
            whole = found.shape + token + text
            ends = self.pieces.ends(whole)
            after = before + len(token)
            is_split = any(before < end < after for end in ends)
            splits = {end for end in ends if 0 < end < before + bool(found.partial)}
            fits = splits <= set(found.edges) and all(
                is_joined or edge in splits for edge, is_joined in zip(found.edges, found.joined, strict=True)
            )
            code = _ALIGNED if fits and not is_split else 0
            code |= _STARTS if not found.partial and (before == 0 or before in ends) else 0
            code |= _ENDS if not tail and after in ends else 0
            if code & _ALIGNED and not code & _ENDS:
                rest = tail + whole[after : min(end for end in ends if end >= after)].encode()
                table.rest[shape] = rest
                table.following[shape] = self._first_token(rest)
            table.codes[shape] = code
            table.is_letter[shape] = token[:1].isalpha()

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

    def _find_neighbours(self, token: int, is_left: bool) -> Bool:
        return (self._left if is_left else self._right).of(token)

    def _find_context(self, context: Line) -> _Context | None:
        """None where it is not known: the tokenizer would change it."""
        if not context:
            return _Context("", (), (), None, b"", b"")
        content = b"".join(self._bytes_of[token] for token in context)
        partial = _unfinished(content)
        text = _whole(content[: len(content) - len(partial)])
        is_kept = text is not None and (not self._normalises or unicodedata.is_normalized("NFC", text))
        if text is None or not is_kept or context[-1] >= self._num_ids:
            return None
        ends = sorted(self.pieces.ends(text))
        start = ([0, *ends])[-2] if len(ends) > 1 else 0
        mark = text.rfind("'", max(0, len(text) - 3))
        if mark >= 0:
            start = max((end for end in (0, *ends) if end <= mark), default=0)
        tail = text[start:]
        is_word = tail[1:].isalpha() and (tail[:1].isalpha() or not tail[:1].isspace() or tail[:1] == " ")
        if is_word and mark < 0 and not partial:  # nothing splits it
            return _Context(
                self.pieces.shape(tail), (), (), context[-1], tail.encode(), b"", is_word=tail[-1:].isalpha()
            )
        edges, joined = self._edges(context, start)
        shape = self.pieces.exact(tail) if mark < 0 else tail
        return _Context(shape, edges, joined, context[-1], tail.encode(), partial)

    def _edges(self, context: Line, start: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Where tokens of ``context`` end after its character ``start``, and whether those tokens are neighbours."""
        edges: list[int] = []
        joined: list[bool] = []
        content = b""
        for one, other in pairwise(context):
            content += self._bytes_of[one]
            before = _whole(content)
            if before is not None and len(before) > start:
                edges.append(len(before) - start)
                is_merged = other < self._num_ids and self._is_merged[one] and self._is_merged[other]
                joined.append(bool(is_merged and self._neighbours(one, False)[other]))
        return tuple(edges), tuple(joined)


def open_spelling(bytes_of: Mapping[int, bytes], backend: Backend) -> Spelling | None:
    """None for a tokenizer that is not known to work like this: no byte-pair encoding, or one of another kind."""
    content = json.loads(backend.to_str())
    model, rules = content["model"], content["pre_tokenizer"]
    if model["type"] != "BPE" or rules is None or not model["merges"]:
        return None
    others = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout", "unk_token")
    if any(model.get(name) for name in others) or (content["normalizer"] or {"type": "NFC"}).get("type") != "NFC":
        return None
    spelling = Spelling(bytes_of, backend, model, json.dumps(rules, ensure_ascii=False))
    return spelling if _agrees(spelling, bytes_of, backend) else None


def _agrees(spelling: Spelling, bytes_of: Mapping[int, bytes], backend: Backend) -> bool:
    """Whether it says what ``backend`` does, of random tokens between random texts."""
    rng = random.Random(0)
    ids = sorted(bytes_of)
    marks = [token for token in ids if len(bytes_of[token]) < 4 and not bytes_of[token].isalnum()] or ids
    for _ in range(_NUM_TRIALS):
        before, after = (
            b"".join(bytes_of[rng.choice(rng.choice((ids, marks)))] for _ in range(num)).decode(errors="ignore")
            for num in (rng.randrange(4), rng.randrange(3))
        )
        context = tuple(backend.encode(before, add_special_tokens=False).ids)
        if b"".join(bytes_of.get(token, b"") for token in context) != before.encode():
            continue
        tokens = np.array([rng.choice(rng.choice((ids, marks))) for _ in range(_TRIED_TOKENS)], dtype=np.int32)
        for token, verdict in zip(tokens.tolist(), spelling.verdicts(context, tokens, after.encode()), strict=True):
            if verdict == UNKNOWN:
                continue
            text = _whole(before.encode() + bytes_of[token] + after.encode())
            if text is None:
                continue
            found = backend.encode(text, add_special_tokens=False).ids
            if (found[: len(context) + 1] == [*context, token]) != (verdict == YES):
                return False
    return True


def _letters() -> dict[int, str]:
    """How a byte-level vocabulary writes each byte (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


def _unfinished(content: bytes) -> bytes:
    """The bytes at the end of ``content`` that begin a character and do not complete it."""
    for num in range(1, min(4, len(content) + 1)):
        byte = content[-num]
        if byte & 0xC0 != 0x80:
            wanted = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return content[-num:] if num < wanted else b""
    return b""


def _whole(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _is_stable(text: str) -> bool:
    """Whether NFC keeps ``text`` whatever stands before it."""
    if text.isascii():
        return True
    first = text[:1]
    is_free = unicodedata.combining(first) == 0 and unicodedata.is_normalized("NFC", "a" + first)
    return is_free and unicodedata.is_normalized("NFC", text) and not _may_compose(first)


def _may_compose(character: str) -> bool:
    """Hangul vowels and trailing consonants, which join the syllable before them."""
    return "\u1160" <= character <= "\u11ff"
