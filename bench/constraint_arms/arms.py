"""Ways to find the tokens that a pattern allows next. Each is opened with a tokenizer, and prepared with a pattern.

The other libraries allow any tokens whose text matches; this project's arm only the tokenizer's own spelling of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.regex import RegexCursor, compile_regex
from grpo_core.rollout.constraints.token_bytes import token_bytes_of


class RefusedTokenError(ValueError):
    """A library does not take a token that writes a text of the pattern: ``arm`` and the ``token``."""

    def __init__(self, arm: str, token: int) -> None:
        super().__init__(f"{arm} refuses token {token}")
        self.arm, self.token = arm, token


class Arm(Protocol):
    """One library with one tokenizer, kept for all patterns."""

    name: str

    def prepare(self, pattern: str) -> None:
        """Compile ``pattern``, as for its first request ever."""
        ...

    def start(self) -> None:
        """Begin a completion of the pattern."""
        ...

    def mask(self) -> object:
        """Find the tokens that may come next."""
        ...

    def advance(self, token: int) -> None:
        """Raises ``RefusedTokenError`` for a token that the library does not take for its text."""
        ...


class OwnArm:
    """``compile_regex`` of this project."""

    name = "grpo_core"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cursor: RegexCursor | None = None
        self.forget()

    def forget(self) -> None:
        """Read the tokenizer anew: what earlier patterns and completions have found out is gone."""
        token_bytes_of.cache_clear()
        assert token_bytes_of(self._tokenizer).matrix is not None
        assert token_bytes_of(self._tokenizer).spelling is not None, "not a tokenizer whose rules are known"

    def prepare(self, pattern: str) -> None:
        self._constraint = compile_regex.__wrapped__(pattern, self._tokenizer)

    def start(self) -> None:
        self._cursor = self._constraint.start()

    def mask(self) -> Any:
        assert self._cursor is not None
        return self._cursor.allowed()

    def advance(self, token: int) -> None:
        assert self._cursor is not None
        self._cursor.advance(token)


class LlguidanceArm:
    name = "llguidance"

    def __init__(self, folder: Path) -> None:
        import llguidance  # pyright: ignore[reportMissingImports]
        import llguidance.numpy  # pyright: ignore[reportMissingImports]

        self._library, self._masks = llguidance, llguidance.numpy
        self._tokenizer = llguidance.LLTokenizer((folder / "tokenizer.json").read_text())
        self._bits = llguidance.numpy.allocate_token_bitmask(1, self._tokenizer.vocab_size)

    def prepare(self, pattern: str) -> None:
        self._grammar = self._library.LLMatcher.grammar_from_regex(pattern)
        self.start()

    def start(self) -> None:
        self._matcher = self._library.LLMatcher(self._tokenizer, self._grammar)

    def mask(self) -> object:
        self._masks.fill_next_token_bitmask(self._matcher, self._bits, 0)
        return self._bits

    def advance(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise RefusedTokenError(self.name, token)


class XgrammarArm:
    name = "xgrammar"

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        import xgrammar  # pyright: ignore[reportMissingImports]

        self._library = xgrammar
        self._info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size)
        self._bits = xgrammar.allocate_token_bitmask(1, vocab_size)

    def prepare(self, pattern: str) -> None:
        self._compiled = self._library.GrammarCompiler(self._info, max_threads=1).compile_regex(pattern)

    def start(self) -> None:
        self._matcher = self._library.GrammarMatcher(self._compiled)

    def mask(self) -> object:
        self._matcher.fill_next_token_bitmask(self._bits)
        return self._bits

    def advance(self, token: int) -> None:
        if not self._matcher.accept_token(token):
            raise RefusedTokenError(self.name, token)


class OutlinesArm:
    """The index of outlines-core, which holds the tokens of every state of the pattern."""

    name = "outlines-core"

    def __init__(self, bytes_of: dict[int, bytes], stop_id: int) -> None:
        from outlines_core import Vocabulary

        ids: dict[bytes | str, list[int]] = {}
        for token, content in bytes_of.items():
            ids.setdefault(content, []).append(token)
        self._vocabulary = Vocabulary(stop_id, ids)  # pyright: ignore[reportArgumentType]

    def prepare(self, pattern: str) -> None:
        from outlines_core import Index

        self._index = Index(pattern, self._vocabulary)

    def start(self) -> None:
        from outlines_core import Guide

        self._guide = Guide(self._index)

    def mask(self) -> object:
        return self._guide.get_tokens()

    def advance(self, token: int) -> None:
        self._guide.advance(token, return_tokens=False)
