"""Calls of tokenizers, seen by wrapping their methods."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

WORDS = ("encode", "decode", "tokenize")
"""In the names of methods that turn text into ids, or ids into text. All calls of a tokenizer of ``transformers`` go
through such methods of its own; looking up a special token does not."""


@dataclass
class TokenizerCalls:
    """The calls of one block of code, by any thread. One that a tokenizer makes to itself is part of the first."""

    num_calls: int = 0
    num_watched: int = 0
    """Tokenizers with methods that could be wrapped."""

    @property
    def seen(self) -> int | None:
        """None where there was nothing to watch."""
        return self.num_calls if self.num_watched else None


@contextmanager
def watch_tokenizers(tokenizers: Iterable[object]) -> Iterator[TokenizerCalls]:
    """The calls of ``tokenizers`` inside the block."""
    calls, lock, inside = TokenizerCalls(), threading.Lock(), _Inside()

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if inside.depth == 0:
                with lock:
                    calls.num_calls += 1
            inside.depth += 1
            try:
                return method(*args, **kwargs)
            finally:
                inside.depth -= 1

        return call

    with ExitStack() as undo:
        for tokenizer in tokenizers:
            calls.num_watched += any([_replace(tokenizer, name, counted, undo) for name in _methods(tokenizer)])
        yield calls


class _Inside(threading.local):
    depth = 0


def _methods(tokenizer: object) -> list[str]:
    """The names of its class's methods that have one of ``WORDS`` in them."""
    kind = type(tokenizer)
    names = [name for name in dir(kind) if any(word in name for word in WORDS) and not name.startswith("__")]
    return [name for name in names if callable(getattr(kind, name))]


def _replace(tokenizer: object, name: str, counted: Callable[..., Any], undo: ExitStack) -> bool:
    """Whether the method could be replaced: an object of a compiled class takes no other."""
    try:
        own = vars(tokenizer)
    except TypeError:
        return False
    if name in own:  # another watcher's
        undo.callback(setattr, tokenizer, name, own[name])
    else:
        undo.callback(delattr, tokenizer, name)
    setattr(tokenizer, name, counted(getattr(tokenizer, name)))
    return True
