"""Text to token ids and back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from grpo_core.errors import ModelError
from grpo_core.model.chat import ChatTemplate
from grpo_core.model.source import locate_model, read_model_config, reading
from grpo_core.types import Int32


class Tokenizer:
    """Text to ids and back, with a count of calls per thread, so that a trainer can prove that it makes none.

    A free completion ends with any of ``stop_ids``: the tokenizer's own end of sequence, which is ``stop_id`` and ends
    constrained text, and those that the model generates besides.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model_stop_ids: Sequence[int] = (), add_bos: bool | None = None
    ) -> None:
        """``add_bos``: whether a prompt begins with the beginning-of-sequence token; None: as the tokenizer does it."""
        self._tokenizer = tokenizer
        self._prefix = _prompt_prefix(tokenizer, add_bos)
        own = tokenizer.eos_token_id
        ids = (*((own,) if isinstance(own, int) else ()), *model_stop_ids)
        assert ids, "a tokenizer or a model names an end of sequence"
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ids))
        self.stop_id: int = self.stop_ids[0]

    @property
    def backend(self) -> Any:
        """The ``tokenizers.Tokenizer`` beneath, whose calls are not counted."""
        return self._tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]

    def encode(self, text: str) -> Int32:
        """Ids [T] of ``text``, without special tokens."""
        _calls.count += 1
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)

    def encode_prompt(self, text: str) -> Int32:
        """Ids [P] of ``text`` as a prompt: behind the special tokens that the model was trained to read first.

        They are not added to a text that begins with them, as one from a chat template does.
        """
        ids = self.encode(text)
        prefix = np.array(self._prefix, dtype=np.int32)
        return ids if np.array_equal(ids[: len(prefix)], prefix) else np.concatenate([prefix, ids])

    def chat(self, arguments: Mapping[str, Any]) -> ChatTemplate:
        """The model's chat template, with what it takes besides the messages. Raises as ``ChatTemplate``."""
        return ChatTemplate(self._tokenizer, arguments)

    def decode(self, ids: Sequence[int] | Int32, *, keep_special: bool = False) -> str:
        """Text of ``ids``, without special tokens unless ``keep_special``."""
        _calls.count += 1
        text = self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=not keep_special)
        assert isinstance(text, str)
        return text


class _CallCount(threading.local):
    count = 0


_calls = _CallCount()


def num_tokenizer_calls() -> int:
    """Calls of any ``Tokenizer`` in the current thread so far."""
    return _calls.count


def load_tokenizer(name: str, *, add_bos: bool | None = None) -> Tokenizer:
    """The tokenizer of a preset, folder or hub id. ``add_bos`` as ``Tokenizer``.

    Raises:
        ModelError: there is none, or neither it nor the model has an end-of-sequence token, or with ``add_bos`` it has
            no beginning-of-sequence token.
    """
    read_model_config(name)  # what is wrong with the whole model is no matter of its tokenizer
    where = locate_model(name)
    with reading(name, "no tokenizer", "add its tokenizer files, or a newer version of tokenizers if they are newer"):
        # Cleaning up takes blanks away before punctuation: the text would not be the one that was sampled.
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, clean_up_tokenization_spaces=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up for a folder without its files
        raise ModelError(f"model {name!r}: no tokenizer (its vocabulary is empty); add its tokenizer files")
    model_stop_ids = _model_stop_ids(name, where)
    if not isinstance(tokenizer.eos_token_id, int) and not model_stop_ids:
        raise ModelError(f"model {name!r}: its tokenizer has no eos_token; set one in tokenizer_config.json")
    if add_bos and not isinstance(tokenizer.bos_token_id, int):
        raise ModelError(f"model {name!r}: model.add_bos with a tokenizer without a bos_token; leave it out")
    with reading(name, "a tokenizer that does not work", "check its tokenizer_config.json"):
        return Tokenizer(tokenizer, model_stop_ids, add_bos)


def _prompt_prefix(tokenizer: PreTrainedTokenizerBase, add_bos: bool | None) -> tuple[int, ...]:
    """Special tokens before a prompt."""
    if add_bos is not None:
        assert not add_bos or isinstance(tokenizer.bos_token_id, int)
        return (tokenizer.bos_token_id,) if add_bos else ()  # pyright: ignore[reportReturnType]
    plain = tokenizer.encode("a", add_special_tokens=False)
    marked = tokenizer.encode("a")
    starts = [start for start in range(len(marked)) if marked[start : start + len(plain)] == plain]
    return tuple(marked[: starts[0]]) if starts else ()


def _model_stop_ids(name: str, where: str) -> tuple[int, ...]:
    """Where ``transformers.generate`` stops: ``eos_token_id`` of generation_config.json, else of config.json."""
    found: Any = None
    try:
        with reading(name, "a generation_config.json that cannot be read", "fix or remove that file"):
            found = GenerationConfig.from_pretrained(where).eos_token_id
    except ModelError as error:
        if not isinstance(error.__cause__, OSError) or (Path(where) / "generation_config.json").exists():
            raise  # else it has no such file
    with reading(name, "cannot be loaded", "check its config.json"):
        if found is None:
            found = read_model_config(name).get_text_config(decoder=True).eos_token_id
        ids = found if isinstance(found, list) else [found]
        return tuple(int(token) for token in ids if token is not None)
