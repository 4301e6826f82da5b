"""Finds text before which the tokenizer writes a token, where it writes it before none of the endings that were tried.

The tokens that may follow such a token are tried one after the other, and those after them, up to three.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from grpo_core.rollout.constraints.automaton.byte_automaton import ByteAutomaton
from grpo_core.rollout.constraints.ending_choices import NEARLY, NEVER, Numbers
from grpo_core.rollout.constraints.lines import Line
from grpo_core.rollout.constraints.moves import Moves
from grpo_core.rollout.constraints.writing import Writing
from grpo_core.rollout.spelling.contexts import ContextKind
from grpo_core.types import Int32

_MAX_CONTINUATIONS, _TRIED_AT_ONCE = 512, 64  # tokens to try after one, and how many of them together
_MAX_TOKENS, _CONTINUED = 3, 2  # tokens of one continuation; how many that nearly hold are continued
_MAX_KEPT = 1 << 14


class Continuations:
    """Finds texts after tokens of a pattern."""

    def __init__(self, automaton: ByteAutomaton, moves: Moves, writing: Writing) -> None:
        self._bytes, self._moves, self._writing = automaton, moves, writing
        self._bytes_of = writing.token_bytes.bytes_of
        self._kept: OrderedDict[tuple[ContextKind, int, int], bytes | None] = OrderedDict()

    def of(self, context: Line, state: int, tokens: Int32, choices: Numbers) -> Iterator[tuple[int, bytes]]:
        """Of ``tokens`` of ``state`` that nearly hold, those after which other tokens were found, with the text of
        these. The others never hold."""
        nearly = np.flatnonzero(choices == NEARLY)
        choices[nearly] = NEVER
        for place in nearly.tolist():
            token = int(tokens[place])
            if (continuation := self._known(context, token, self._writing.follow(state, token))) is not None:
                choices[place] = NEARLY
                yield token, continuation

    def _known(self, context: Line, token: int, state: int) -> bytes | None:
        """As ``_find`` of ``context`` and ``token``: what was found after another context of the kind, if it does."""
        spelling = self._writing.token_bytes.spelling
        found = spelling.context(context) if spelling is not None else None
        assert found is not None, "a token nearly holds by the rules alone"
        key = (found.kind, token, int(self._bytes.head_class[state]))
        line = (*context, token)
        if key in self._kept:
            continuation = self._kept[key]
            if continuation is None or self._goes_on(line, state, continuation):
                return continuation
        continuation = self._find(line, state, _MAX_TOKENS)
        if continuation is not None or key not in self._kept:  # nearer to an end a longer one may be of no use
            self._kept[key] = continuation
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return continuation

    def _goes_on(self, line: Line, state: int, text: bytes) -> bool:
        return self._bytes.follow(state, text) != self._bytes.dead and self._writing.is_written(line, text)

    def _find(self, line: Line, state: int, num_left: int) -> bytes | None:
        """Text after ``line``, which has led to ``state``, before which the tokenizer writes it; None if none is found.

        A token alone in its piece would have been found before: only neighbours of the last token are tried.
        """
        assert self._writing.token_bytes.spelling is not None
        tokens = self._moves.tokens(state)
        tokens = tokens[self._writing.token_bytes.spelling.neighbours_of(line[-1])[tokens]]
        nearly: list[tuple[int, int]] = []
        for first in range(0, min(len(tokens), _MAX_CONTINUATIONS), _TRIED_AT_ONCE):
            few = tokens[first : first + _TRIED_AT_ONCE]
            at = self._writing.states(state, few)
            choices = self._writing.choices(line, few, at)
            for place in np.flatnonzero(choices < NEARLY).tolist():
                text = self._bytes_of[int(few[place])] + self._writing.heads(int(at[place]))[choices[place]]
                if self._writing.is_written(line, text):
                    return text
            nearly += [(int(few[place]), int(at[place])) for place in np.flatnonzero(choices == NEARLY)]
        for token, target in nearly[:_CONTINUED] if num_left > 1 else []:
            if (text := self._find((*line, token), target, num_left - 1)) is not None:
                return self._bytes_of[token] + text
        return None
