"""With which ending the tokenizer writes each token of a layout after a context.

What depends on the context's kind alone is kept for each layout, as a board. For the context itself remain the
neighbours of its last token, and the few tokens that normalisation, an added token or a whole piece may change.

Legend: N tokens of a layout.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grpo_core.rollout.constraints.ending_choices import NEARLY, NEVER, UNKNOWN, EndingChoices, EndingText, Numbers
from grpo_core.rollout.constraints.lines import Line
from grpo_core.rollout.constraints.moves import Groups, Layout, Places
from grpo_core.rollout.spelling.contexts import Context, ContextKind
from grpo_core.rollout.spelling.spelling import Spelling
from grpo_core.rollout.spelling.token_texts import COMPOSING
from grpo_core.types import Int32

_MAX_BOARDS = 64  # of 2 N bytes each

Heads = Callable[[int], tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class _Part:
    """Tokens that have the same endings."""

    places: Places
    texts: tuple[EndingText, ...]


@dataclass(frozen=True, slots=True)
class _Board:
    """``EndingChoices.numbers`` of a layout's tokens [N], ``NEVER`` for those without a group."""

    starting: Numbers
    joining: Numbers
    composing: Places  # of tokens that begin with a mark
    parts: tuple[_Part, ...]


class LayoutChoices:
    """For one tokenizer, whose rules are ``spelling``."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._endings = EndingChoices(spelling)
        self._boards: OrderedDict[tuple[ContextKind, Layout], _Board] = OrderedDict()

    def of(
        self, context: Line, layout: Layout, longer: Groups, heads: Heads, *, is_kept: bool = True
    ) -> Numbers | None:
        """[N]: the index of the first of the ``heads`` of its group before which the tokenizer writes each token, or
        ``NEARLY``, ``UNKNOWN`` or ``NEVER``, also without a group. None where that is not known for the context.

        ``longer`` are the groups of the layout's long tokens. A layout that will not be asked for again is not kept.
        """
        with self._spelling.lock:
            found = self._spelling.context(context)
            if found is None or found.partial:
                return None
            key = (found.kind, layout)
            board = self._boards.get(key)
            if board is None:
                board = self._new_board(found, layout, heads)
                if is_kept:
                    self._boards[key] = board
                    if len(self._boards) > _MAX_BOARDS:
                        self._boards.popitem(last=False)
            elif is_kept:
                self._boards.move_to_end(key)
            return self._choose(found, layout.tokens, self._with_longer(board, found, layout, longer, heads))

    def _new_board(self, found: Context, layout: Layout, heads: Heads) -> _Board:
        starting, joining = (np.full(len(layout.tokens), NEVER, dtype=np.uint8) for _ in range(2))
        parts = tuple(_Part(places, self._endings.texts(heads(state))) for state, places in layout.groups)
        for (state, places), part in zip(layout.groups, parts, strict=True):
            if part.texts:
                tokens = layout.tokens[places]
                starting[places], joining[places] = self._endings.numbers(found, tokens, heads(state))
        composing = np.flatnonzero(self._spelling.texts.kinds[layout.tokens] == COMPOSING)
        return _Board(starting, joining, composing, parts)

    def _with_longer(self, board: _Board, found: Context, layout: Layout, longer: Groups, heads: Heads) -> _Board:
        """``board`` with the long tokens: all of them are asked for each group, as their groups change by state."""
        if not longer:
            return board
        starting, joining = board.starting.copy(), board.joining.copy()
        parts: list[_Part] = []
        for state, among in longer:
            parts.append(_Part(layout.longer[among], self._endings.texts(heads(state))))
            if parts[-1].texts:
                numbers = self._endings.numbers(found, layout.tokens[layout.longer], heads(state))
                starting[parts[-1].places], joining[parts[-1].places] = (each[among] for each in numbers)
        return _Board(starting, joining, board.composing, (*board.parts, *parts))

    def _choose(self, found: Context, tokens: Int32, board: _Board) -> Numbers:
        spelling = self._spelling
        joined = spelling.joined(found, tokens)
        result = np.where(joined, np.minimum(board.starting, board.joining), board.starting)
        changing = board.composing if not spelling.completes_added(found) else np.arange(len(tokens))
        result[changing[spelling.changed_by(found, tokens[changing])]] = NEVER
        for part in board.parts:
            self._ask_composing(found, tokens, part, result)
        if spelling.added.is_begun_by(found.text):
            for part in board.parts:
                self._ask_crossing(found, tokens, part, result)
        if found.piece in spelling.texts.beginnings:
            places = _places(tokens, spelling.completing_wholes(found))
            result[places[board.joining[places] < NEARLY]] = UNKNOWN
        for part in board.parts:
            if not part.texts:
                result[part.places] = UNKNOWN
        return result

    def _ask_composing(self, found: Context, tokens: Int32, part: _Part, result: Numbers) -> None:
        """Where a character that begins with a token joins what is before it, another ending may do: not known."""
        if not part.texts or not part.texts[0].following.tail:
            return
        held = part.places[self._spelling.shapes_of.may_compose[tokens[part.places]]]
        for text in part.texts if len(held) else ():
            chosen = held[result[held] == text.choice]
            if len(chosen):
                result[chosen[self._spelling.changed_by(found, tokens[chosen], text.following.tail)]] = UNKNOWN

    def _ask_crossing(self, found: Context, tokens: Int32, part: _Part, result: Numbers) -> None:
        """Where a token would make an added one, with the context and what follows, another ending may do."""
        for text in part.texts:
            chosen = part.places[result[part.places] == text.choice] if text.following.crossing else ()
            for place in chosen:
                if self._spelling.crosses(found, int(tokens[place]), text.following):
                    result[place] = UNKNOWN


def _places(tokens: Int32, wanted: list[int]) -> Places:
    """The places of those of ``wanted`` that are among ``tokens``. Both ascend."""
    ids = np.array(wanted, dtype=tokens.dtype)
    places = np.searchsorted(tokens, ids)
    inside = places < len(tokens)
    places, ids = places[inside], ids[inside]
    return places[tokens[places] == ids]
