"""The bytes of a tokenizer's tokens, and how much context decides where it splits a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_core.errors import ConstraintError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.layout_choices import LayoutChoices
from grpo_core.rollout.constraints.lines import Line
from grpo_core.rollout.spelling.known_spelling import open_spelling
from grpo_core.rollout.spelling.spelling import Spelling
from grpo_core.types import Int32

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

CONTEXT_TOKENS = 6  # when no word or number starts nearer
LETTERS_SURE = 4  # letters into a word from which no splitting rule depends on the word's start
MAX_CONTEXT_TOKENS = 16  # when the tokenizer does not split there either
MIN_BATCH = 2048  # texts; fewer are encoded faster on one core than on all


class TokenBytes:
    """The bytes of each id of a byte-level tokenizer, and the ids of bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.stop_id = tokenizer.stop_id
        self._backend: Backend = tokenizer.backend
        self.bytes_of = _token_bytes(self._backend)
        self.bytes_of.pop(self.stop_id, None)

    @cached_property
    def spelling(self) -> Spelling | None:
        """The tokenizer's rules by which tokens follow each other, where they are known."""
        return open_spelling(self.bytes_of, self._backend)

    @cached_property
    def choices(self) -> LayoutChoices | None:
        return LayoutChoices(self.spelling) if self.spelling is not None else None

    def encode(self, text: bytes) -> Line | None:
        """The ids of ``text``; None when they decode to another text (normalised, or with special tokens)."""
        ids = tuple(self._backend.encode(text.decode(), add_special_tokens=False).ids)
        pieces = [self.bytes_of.get(token) for token in ids]
        return ids if None not in pieces and b"".join(piece for piece in pieces if piece) == text else None

    def encode_all(self, texts: Sequence[bytes]) -> list[list[int]]:
        """The ids of ``texts``, each truncated to whole characters."""
        strings = [text.decode(errors="ignore") for text in texts]
        if len(strings) < MIN_BATCH:
            return [self._backend.encode(text, add_special_tokens=False).ids for text in strings]
        return [item.ids for item in self._backend.encode_batch_fast(strings, add_special_tokens=False)]

    @cached_property
    def matrix(self) -> tuple[NDArray[np.uint8], Int32, Int32]:
        """Bytes [N, longest], lengths [N] and ids [N] of the tokens, longest first."""
        ids = sorted(self.bytes_of, key=lambda token: -len(self.bytes_of[token]))
        lengths = np.array([len(self.bytes_of[token]) for token in ids], dtype=np.int32)
        matrix = np.zeros((len(ids), int(lengths[0])), dtype=np.uint8)
        for row, token in enumerate(ids):
            matrix[row, : lengths[row]] = np.frombuffer(self.bytes_of[token], dtype=np.uint8)
        return matrix, lengths, np.array(ids, dtype=np.int32)

    def context(self, line: Line, ending: bytes) -> Line:
        """The last tokens of ``line``, when ``ending`` follows, that decide how the text after them is split.

        Pre-tokenization looks ahead but not back: it restarts at each piece. Following text can still move the start of
        a piece among blanks or marks, or after an apostrophe ("'l", "'ll"), so the context starts at a word or number,
        or well inside a word.
        """
        pieces = [self.bytes_of[token] for token in line]
        words = self._backend.encode((b"".join(pieces) + ending).decode(errors="ignore")).word_ids
        into_word = [0]  # bytes of the tokenizer's piece before each token
        for place in range(1, len(line)):
            is_same = words[place] == words[place - 1]
            into_word.append(into_word[-1] + len(pieces[place - 1]) if is_same else 0)
        for start in range(len(line) - 1, 0, -1):
            if pieces[start][0] & 0xC0 == 0x80:  # within a character
                continue
            text, before = (pieces[place].decode(errors="ignore") for place in (start, start - 1))
            size, has_letter = len(line) - start, any(map(str.isalpha, text))
            if into_word[start] == 0:
                is_after_mark = not before[-1:].isalnum() and not before[-1:].isspace()
                is_word = has_letter or text[:1].isalnum()
                stands = size >= CONTEXT_TOKENS or (is_word and not (text[:1].isalnum() and is_after_mark))
            else:
                stands = has_letter and into_word[start] >= LETTERS_SURE
            if stands or size >= MAX_CONTEXT_TOKENS:
                return line[start:]
        return line


@lru_cache(maxsize=8)
def token_bytes_of(tokenizer: Tokenizer) -> TokenBytes:
    """The token bytes of ``tokenizer``.

    Raises:
        ConstraintError: its tokens are not byte strings.
    """
    return TokenBytes(tokenizer)


def _token_bytes(backend: Backend) -> dict[int, bytes]:
    """Bytes of each id but those of special tokens.

    A byte-level vocabulary writes each byte as one printable character: itself where it is one, else the next free one
    from U+0100 on (Radford et al. 2019).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
    added = backend.get_added_tokens_decoder()
    pieces: dict[int, bytes] = {}
    for text, token in backend.get_vocab(with_added_tokens=True).items():
        if token in added:
            if not added[token].special:
                pieces[token] = text.encode()
        elif text and all(letter in byte_of for letter in text):
            pieces[token] = bytes(byte_of[letter] for letter in text)
        else:
            raise ConstraintError(
                f"constraint pattern: the tokenizer's token {text!r} is not a string of bytes; patterns need a "
                "byte-level BPE tokenizer (Qwen2, Qwen3, Llama 3); give choices instead of a pattern"
            )
    return pieces
