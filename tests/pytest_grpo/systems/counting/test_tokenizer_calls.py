from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pytest_grpo.systems.counting.tokenizer_calls import watch_tokenizers


class Letters:
    """A tokenizer of single letters, whose batches call it once per text."""

    name = "letters"

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def batch_encode(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()


def test_calls_are_counted_once_whatever_they_call() -> None:
    tokenizer = Letters()
    with watch_tokenizers([tokenizer]) as calls:
        assert tokenizer.decode(tokenizer.encode("ab")) == "ab"
        tokenizer.batch_encode(["a", "b", "c"])
    tokenizer.encode("after")
    assert calls.seen == 3
    assert vars(tokenizer) == {}, "it is as it was"


def test_calls_of_other_threads_count() -> None:
    tokenizer = Letters()
    with watch_tokenizers([tokenizer]) as calls:
        thread = threading.Thread(target=tokenizer.encode, args=("a",))
        thread.start()
        thread.join()
    assert calls.seen == 1


def test_two_watchers_count_alike() -> None:
    tokenizer = Letters()
    with watch_tokenizers([tokenizer]) as outer:
        with watch_tokenizers([tokenizer]) as inner:
            tokenizer.encode("a")
        tokenizer.encode("b")
    assert (outer.seen, inner.seen) == (2, 1)
    assert vars(tokenizer) == {}


def test_a_failed_call_counts() -> None:
    tokenizer = Letters()
    with watch_tokenizers([tokenizer]) as calls:
        with pytest.raises(ValueError, match="256"):
            tokenizer.decode([256])
        tokenizer.encode("a")
    assert calls.seen == 2


def test_the_tokenizers_of_transformers_are_seen(model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    with watch_tokenizers([tokenizer]) as calls:
        ids = tokenizer("3 + 4")["input_ids"]
        tokenizer.decode(ids)
        tokenizer.batch_decode([ids, ids])
        tokenizer.encode("3")
    assert calls.seen is not None
    assert calls.seen >= 4


class Compiled:
    """As classes of compiled code are: its objects take no attribute."""

    __slots__ = ()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def test_what_cannot_be_watched_is_not_counted_as_none() -> None:
    for tokenizers in ([], [Compiled()]):
        with watch_tokenizers(tokenizers) as calls:
            Compiled().encode("3")
        assert calls.seen is None
