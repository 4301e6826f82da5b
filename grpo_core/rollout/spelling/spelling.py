"""Whether the tokenizer would write a token after a context and before some text, for all tokens at once.

It depends on three things. The splitting rules must not split the token, nor what is before it otherwise than before:
that is the same for all contexts, tokens and texts of one shape (``pieces``). Within a piece the token must be a
neighbour of the one before it, and of the one after it: that depends on two tokens alone (``bpe_pairs``). So only the
last of the three, the neighbours of the last token, is asked anew for each context: the rest is kept for the context's
kind (``ending_choices``).

Legend: V ids, N tokens that are asked for.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from grpo_core.rollout.spelling.added_tokens import AddedTokens
from grpo_core.rollout.spelling.bpe_pairs import Merges
from grpo_core.rollout.spelling.byte_text import is_stable, num_continuing, whole
from grpo_core.rollout.spelling.contexts import Context, Contexts
from grpo_core.rollout.spelling.pairs import Pairs
from grpo_core.rollout.spelling.pieces import Pieces
from grpo_core.rollout.spelling.shapes import Shapes
from grpo_core.rollout.spelling.tables import ALIGNED, ENDS, STARTS, Table, Tables
from grpo_core.rollout.spelling.token_texts import COMPOSING, NEVER_WRITTEN, PARTIAL, WHOLE, TokenTexts
from grpo_core.types import Bool, Int32

NO, YES, UNKNOWN = range(3)
_MAX_FOLLOWING = 1 << 13

Verdicts = NDArray[np.uint8]


class Following(NamedTuple):
    """The text after a token, up to an added one."""

    tail: bytes  # that belong to a character before it
    text: str
    crossing: tuple[bytes, ...]  # texts before it with which it would make an added token


@dataclass(frozen=True, slots=True)
class Rule:
    """For each token, whatever the last one before it is: whether it may stand there, [N] each."""

    holds: Bool
    starts: Bool  # a piece begins with it, so the last token does not matter
    nearly: Bool  # it holds but for the token that would follow it


class Spelling:
    """What one tokenizer would write; ``known_spelling`` opens it."""

    def __init__(self, bytes_of: Mapping[int, bytes], backend: Backend, model: Mapping[str, Any]) -> None:
        self._bytes_of = bytes_of
        merges = Merges.of(model["vocab"], model["merges"])
        self._normalises = backend.normalizer is not None
        self.num_ids = len(merges.rank)
        self.texts = TokenTexts(
            bytes_of, merges.rank >= 0, normalises=self._normalises, ignores_merges=bool(model.get("ignore_merges"))
        )
        self._pairs = Pairs(merges, model["vocab"], self.texts.num)
        self.pieces = Pieces(backend.pre_tokenizer)
        self.added = AddedTokens(backend.get_added_tokens_decoder(), bytes_of)
        self.texts.kinds[list(self.added.holders)] = NEVER_WRITTEN
        self._contexts = Contexts(bytes_of, self.pieces, self._may_join, added=self.added, normalises=self._normalises)
        self.shapes_of = Shapes(self.pieces, self.texts, bytes_of, normalises=self._normalises)
        self._tables = Tables(self.pieces, self.shapes_of)
        self.following = lru_cache(maxsize=_MAX_FOLLOWING)(self._find_following)
        self._none = np.zeros(self.texts.num, dtype=np.bool_)
        self.lock = threading.RLock()

    def context(self, tokens: tuple[int, ...]) -> Context | None:
        """None where it is not known: the tokenizer would change it."""
        return self._contexts.of(tokens)

    def verdicts(self, context: tuple[int, ...], tokens: Int32, ending: bytes) -> Verdicts:
        """[N]: ``YES`` where the tokenizer writes each of ``tokens`` after ``context`` and before ``ending``, ``NO``
        where it writes others, ``UNKNOWN`` where that is not known.

        ``ending`` ends with a whole character. Where it begins within one, all ``tokens`` end within it.
        """
        with self.lock:
            found, following = self.context(context), self.following(ending)
            result = np.full(len(tokens), UNKNOWN, dtype=np.uint8)
            if found is None or following is None:
                return result
            kinds = self.texts.kinds[tokens]
            result[kinds == NEVER_WRITTEN] = NO
            places = np.flatnonzero(self._is_known(found, kinds, is_open=bool(following.tail)))
            shapes = self.shapes(found, tokens[places], following.tail)
            if not found.partial:
                result[places[shapes < 0]] = NO
            places, shapes = places[shapes >= 0], shapes[shapes >= 0]
            changed = self.changed_by(found, tokens[places], following.tail)
            result[places[changed]] = NO
            places, shapes = places[~changed], shapes[~changed]
            known = tokens[places]
            rule = self.rule(found, known, shapes, following)
            holds = rule.holds & (rule.starts | self.joined(found, known))
            if self.added.is_begun_by(found.text):
                crossing = [self.crosses(found, token, following) for token in known.tolist()]
                holds &= ~np.array(crossing, dtype=np.bool_)
            self._forbid_wholes(holds & ~rule.starts, holds, known, found, shapes, following)
            result[places] = holds
            return result

    def _find_following(self, ending: bytes) -> Following | None:
        """None where it is not known how ``ending`` is read: normalisation may change it, or it ends in a character."""
        cut, crossing = self.added.cut(ending)
        num_open = num_continuing(cut)
        text = whole(cut[num_open:])
        is_kept = text is not None and not (self._normalises and not is_stable(text))
        return Following(cut[:num_open], text, crossing) if text is not None and is_kept else None

    def _is_known(self, found: Context, kinds: Verdicts, *, is_open: bool) -> Bool:
        chosen = (kinds == WHOLE) | (kinds == COMPOSING)
        return chosen | (kinds == PARTIAL) if found.partial or is_open else chosen

    def changed_by(self, found: Context, tokens: Int32, tail: bytes = b"") -> Bool:
        """[N]: whether each of ``tokens`` completes an added token, or normalisation changes it, since it begins with a
        mark for what precedes it. The character that it begins may end with ``tail``."""
        completing = self._completing_added(found)
        changed = np.isin(tokens, completing) if completing else np.zeros(len(tokens), dtype=np.bool_)
        if not found.partial:
            piece = found.piece.decode()
            is_mark = self.texts.kinds[tokens] == COMPOSING if not tail else self.shapes_of.may_compose[tokens]
            for place in np.flatnonzero(is_mark).tolist():
                token = int(tokens[place])
                text = (self._bytes_of[token] + tail).decode(errors="replace") if tail else self.texts.text_of[token]
                changed[place] |= not unicodedata.is_normalized("NFC", piece + text)
        return changed

    def completes_added(self, found: Context) -> bool:
        """Whether any token completes an added token after the context."""
        return bool(self._completing_added(found))

    def _completing_added(self, found: Context) -> list[int]:
        return self.added.completed_by(found.text[-self.added.longest :])

    def joined(self, found: Context, tokens: Int32) -> Bool:
        """[N]: whether each of ``tokens`` may stand right of the last token in its piece."""
        if found.last is None:
            return np.ones(len(tokens), dtype=np.bool_)
        return self.neighbours_of(found.last)[tokens]

    def neighbours_of(self, token: int) -> Bool:
        """[V]: which tokens may stand right of ``token`` in its piece."""
        return self._pairs.right_of(token) if self.texts.is_merged[token] else self._none

    def shapes(self, found: Context, tokens: Int32, tail: bytes) -> Int32:
        """[N], as ``Shapes.of``, with what ``tokens`` share with the context and with ``tail`` after them."""
        return self.shapes_of.of(tokens, found.partial, tail, after_apostrophe=found.kind.has_apostrophe)

    def rule(self, found: Context, known: Int32, shapes: Int32, following: Following) -> Rule:
        """What holds of tokens ``known`` [N] of ``shapes`` after every context of the kind of ``found``."""
        table = self._table(found, following, shapes)
        codes = table.codes[shapes]
        starts, ends = (codes & STARTS) > 0, (codes & ENDS) > 0
        holds = (codes & ALIGNED) > 0
        nearly = holds & ~ends
        rest_of = table.rest[shapes]
        for number, rest in enumerate(table.rests):
            chosen = np.flatnonzero(rest_of == number)
            if len(chosen):
                first = self._pairs.first_token(following.tail + rest)
                holds[chosen] = self._pairs.left_among(known[chosen], first)
        is_merged = self.texts.is_merged[known]
        holds &= is_merged | (starts & ends & bool(self.texts.wholes))
        nearly &= ~holds & is_merged
        if self.texts.wholes:  # a piece that is a token by itself is never merged, so it is not several tokens
            for place in np.flatnonzero(self.texts.is_cut[known] & holds & starts & ~ends).tolist():
                after = table.text_after(shapes[place], following.tail)
                holds[place] &= self._bytes_of[int(known[place])] + after not in self.texts.wholes
        if following.crossing:
            may_stand = ~self.added.ends_in(following.crossing)[known]
            holds &= may_stand
            nearly &= may_stand
        return Rule(holds, starts, nearly)

    def crosses(self, found: Context, token: int, following: Following) -> bool:
        """Whether the context, ``token`` and what follows make an added token."""
        return bool(following.crossing) and (found.text + self._bytes_of[token]).endswith(following.crossing)

    def completing_wholes(self, found: Context) -> list[int]:
        """Tokens with each of which the last piece may be a token by itself, ascending."""
        before = found.piece + found.partial
        return self.texts.ids_behind(before) if before in self.texts.beginnings else []

    def _forbid_wholes(
        self, asked: Bool, holds: Bool, known: Int32, found: Context, shapes: Int32, following: Following
    ) -> None:
        """As in ``rule``, of tokens ``asked`` that join the last piece."""
        before = found.piece + found.partial
        if before not in self.texts.beginnings:
            return
        table = self._table(found, following, shapes)
        for place in np.flatnonzero(asked).tolist():
            after = table.text_after(shapes[place], following.tail)
            holds[place] &= before + self._bytes_of[int(known[place])] + after not in self.texts.wholes

    def _table(self, found: Context, following: Following, shapes: Int32) -> Table:
        return self._tables.of(found.kind, following.text, shapes, is_open=bool(following.tail))

    def _may_join(self, one: int, other: int) -> bool:
        is_merged = self.texts.is_merged
        return bool(is_merged[one] and is_merged[other] and self._pairs.right_among(np.array([other]), one)[0])
