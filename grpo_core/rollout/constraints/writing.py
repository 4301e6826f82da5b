"""With which text after it the tokenizer writes a token, for all tokens that a state of a pattern can take.

Texts to try are chosen by the state that the token leads to (``ByteAutomaton.heads``).

Legend: N tokens.
"""

from __future__ import annotations

import numpy as np

from grpo_core.rollout.constraints.automaton.byte_automaton import MAX_ENDINGS, ByteAutomaton
from grpo_core.rollout.constraints.ending_choices import NEVER, Numbers
from grpo_core.rollout.constraints.ending_choices import UNKNOWN as NOT_KNOWN
from grpo_core.rollout.constraints.lines import Line
from grpo_core.rollout.constraints.moves import Layout, Moves
from grpo_core.rollout.constraints.token_bytes import TokenBytes
from grpo_core.rollout.spelling.spelling import NO, UNKNOWN, YES, Verdicts
from grpo_core.types import Int32

ENCODED_ENDINGS = 12  # texts to try after a token where its spelling is found by encoding them


class Writing:
    """Says which tokens of ``token_bytes`` the tokenizer writes in texts of ``automaton``."""

    def __init__(self, token_bytes: TokenBytes, automaton: ByteAutomaton) -> None:
        self.token_bytes = token_bytes
        self._bytes = automaton
        self._max_endings = MAX_ENDINGS if token_bytes.spelling is not None else ENCODED_ENDINGS

    def choices(self, context: Line, tokens: Int32, states: Int32) -> Numbers:
        """For each token the first of ``heads`` of its state with which the tokenizer produces it after ``context``, or
        ``NEARLY`` or ``NEVER``."""
        by_layout = self.token_bytes.choices
        if by_layout is None or not len(tokens):
            return self._one_by_one(context, tokens, states)
        layout = Layout.of(tokens, states, self._bytes.head_class)
        choices = by_layout.of(context, layout, (), self.heads, is_kept=False)
        if choices is None:
            return self._one_by_one(context, tokens, states)
        unknown = np.flatnonzero(choices == NOT_KNOWN)
        choices[unknown] = self._one_by_one(context, tokens[unknown], states[unknown])
        return choices

    def choices_of(self, context: Line, state: int, moves: Moves) -> tuple[Int32, Numbers]:
        """The tokens that ``state`` can take [N] with their ``choices`` [N]; some may be dead, with ``NEVER``."""
        layout, by_layout = moves.layout(state), self.token_bytes.choices
        longer = moves.groups_of_longer(state, layout)
        choices = by_layout.of(context, layout, longer, self.heads) if by_layout is not None else None
        if choices is None:
            tokens, states = moves.of(state)
            return tokens, self.choices(context, tokens, states)
        unknown = np.flatnonzero(choices == NOT_KNOWN)
        tokens = layout.tokens[unknown]
        choices[unknown] = self._one_by_one(context, tokens, self.states(state, tokens))
        return layout.tokens, choices

    def follow(self, state: int, token: int) -> int:
        """The state to which ``token`` leads from ``state``."""
        return self._bytes.follow(state, self.token_bytes.bytes_of[token])

    def states(self, state: int, tokens: Int32) -> Int32:
        """The states [N] to which a few ``tokens`` [N] lead from ``state``."""
        return np.array([self.follow(state, token) for token in tokens.tolist()], dtype=np.int32)

    def _one_by_one(self, context: Line, tokens: Int32, states: Int32) -> Numbers:
        """As ``choices``, for one text after the other; never ``NEARLY``."""
        choices = np.full(len(tokens), NEVER, dtype=np.uint8)
        different, group_of = np.unique(states, return_inverse=True)
        heads = [self.heads(state) for state in different.tolist()]
        left = np.arange(len(tokens))
        for choice in range(MAX_ENDINGS):
            texts = [each[choice] if len(each) > choice else None for each in heads]
            numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
            chosen = np.array([numbers[text] for text in texts], dtype=np.int32)[group_of[left]]
            tried = []
            for text, number in numbers.items():
                places = left[chosen == number]
                if text is None or not len(places):
                    continue
                verdicts = self._verdicts(context, tokens[places], text)
                choices[places[verdicts == YES]] = choice
                tried.append(places[verdicts == NO])
            if not tried:
                break
            left = np.sort(np.concatenate(tried))
        return choices

    def _verdicts(self, context: Line, tokens: Int32, ending: bytes) -> Verdicts:
        """As ``Spelling.verdicts``, where that does not know by encoding the text."""
        spelling = self.token_bytes.spelling
        verdicts = np.full(len(tokens), UNKNOWN, dtype=np.uint8)
        if spelling is not None:
            verdicts = spelling.verdicts(context, tokens, ending)
        unknown = np.flatnonzero(verdicts == UNKNOWN)
        prefix, size = self.text(context), len(context)
        texts = [prefix + self.token_bytes.bytes_of[token] + ending for token in tokens[unknown].tolist()]
        for place, ids in zip(unknown.tolist(), self.token_bytes.encode_all(texts), strict=True):
            verdicts[place] = YES if ids[: size + 1] == [*context, int(tokens[place])] else NO
        return verdicts

    def is_written(self, line: Line, ending: bytes) -> bool:
        (ids,) = self.token_bytes.encode_all([self.text(line) + ending])
        return tuple(ids[: len(line)]) == line

    def heads(self, state: int) -> tuple[bytes, ...]:
        """Beginnings of texts that lead from ``state`` to an end: fewer where each must be encoded."""
        return self._bytes.heads(state, self._max_endings)

    def endings(self, state: int) -> tuple[bytes, ...]:
        """The whole of such texts."""
        return self._bytes.endings(state, self._max_endings)

    def text(self, line: Line) -> bytes:
        return b"".join(self.token_bytes.bytes_of[token] for token in line)
