"""The tokens of a choice of lines: each line's own text, wherever in an answer it stands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from grpo_core.errors import ConstraintError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.lines import Line, LineConstraint

_LINE_BREAK = "\n"


class LineTokens:
    """Builds constraints of lines for ``tokenizer``. Equal lines and equal choices are tokenized once.

    Tokenizers of the SentencePiece family put a blank before what they encode. So a line that follows another one is
    encoded behind a line break, whose tokens are then taken away.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._break_ids = tuple(tokenizer.encode(_LINE_BREAK).tolist())
        self.constraint = lru_cache(maxsize=1024)(self._build)
        self._line = lru_cache(maxsize=65536)(self._encode)

    def _build(self, choices: tuple[tuple[str, ...], ...], distinct: bool) -> LineConstraint:
        """The constraint of ``choices``: one line of each segment, in order.

        Raises:
            ConstraintError: as ``LineConstraint``, or the tokenizer has no tokens for a line's own text.
        """
        segments = tuple(self._segment(lines, is_first=index == 0) for index, lines in enumerate(choices))
        if distinct and any(self._depends_on_place(lines) for lines in choices):
            raise ConstraintError(
                "distinct choices: this tokenizer spells the first line of an answer otherwise than later ones; use a "
                "byte-level tokenizer, or choices that need not be distinct"
            )
        return LineConstraint(segments, distinct)

    def _segment(self, lines: Sequence[str], *, is_first: bool) -> tuple[Line, ...]:
        return tuple(self._line(line, is_first) for line in lines)

    def _depends_on_place(self, lines: Sequence[str]) -> bool:
        return self._segment(lines, is_first=True) != self._segment(lines, is_first=False)

    def _encode(self, line: str, is_first: bool) -> Line:
        if is_first:
            return tuple(self._tokenizer.encode(line).tolist())
        ids = tuple(self._tokenizer.encode(_LINE_BREAK + line).tolist())
        num = len(self._break_ids)
        if ids[:num] != self._break_ids or self._tokenizer.decode(ids) != _LINE_BREAK + line:
            alone = tuple(self._tokenizer.encode(line).tolist())
            if self._tokenizer.decode([*self._break_ids, *alone]) != _LINE_BREAK + line:
                raise ConstraintError(
                    f"choice {line!r}: this tokenizer gives it other text behind a line break; use a byte-level "
                    "tokenizer, or choices of one segment"
                )
            return alone
        return ids[num:]
