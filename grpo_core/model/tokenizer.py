"""Text to token ids and back."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from grpo_core.errors import ModelError
from grpo_core.model.source import first_line, locate_model, read_model_config
from grpo_core.types import Int32


class Tokenizer:
    """Text to ids and back, with a count of calls per thread, so that a trainer can prove that it makes none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        assert isinstance(tokenizer.eos_token_id, int)
        self.stop_id: int = tokenizer.eos_token_id

    @property
    def backend(self) -> Any:
        """The ``tokenizers.Tokenizer`` beneath, whose calls are not counted."""
        return self._tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]

    def encode(self, text: str) -> Int32:
        """Ids [T] of ``text``, without special tokens."""
        _calls.count += 1
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)

    def decode(self, ids: Sequence[int] | Int32) -> str:
        """Text of ``ids`` without special tokens."""
        _calls.count += 1
        text = self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)
        assert isinstance(text, str)
        return text


class _CallCount(threading.local):
    count = 0


_calls = _CallCount()


def num_tokenizer_calls() -> int:
    """Calls of any ``Tokenizer`` in the current thread so far."""
    return _calls.count


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a preset, folder or hub id.

    Raises:
        ModelError: there is none, or it has no end-of-sequence token.
    """
    read_model_config(name)  # what is wrong with the whole model is no matter of its tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate_model(name), trust_remote_code=False)
    except Exception as error:  # of damaged files transformers raises whatever its parsers did
        raise ModelError(f"model {name!r}: no tokenizer ({first_line(error)}); add its tokenizer files") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up for a folder without its files
        raise ModelError(f"model {name!r}: no tokenizer (its vocabulary is empty); add its tokenizer files")
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(f"model {name!r}: its tokenizer has no eos_token; set one in tokenizer_config.json")
    return Tokenizer(tokenizer)
