"""Tokens that were added to a vocabulary, such as ``<think>``, come before all other spelling."""

from __future__ import annotations

import random
import re

import pytest

from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.constraints.regex import compile_regex
from grpo_core.rollout.constraints.token_bytes import token_bytes_of

NUM_TEXTS = 60


@pytest.fixture(scope="module")
def tagged() -> Tokenizer:
    """The preset's tokenizer with two tokens more."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    backend = Backend.from_str(load_tokenizer("tiny").backend.to_str())
    backend.add_tokens([AddedToken(text, normalized=False) for text in ("<t>", "</t>")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    return Tokenizer(fast)


def texts(pattern: str, rng: random.Random) -> list[str]:
    """Random texts of one of the patterns below."""
    bodies = ["".join(rng.choice("<t/> ") for _ in range(rng.randint(1, 30))) for _ in range(NUM_TEXTS)]
    if pattern.startswith("["):
        return [f"{body};" for body in bodies]
    return [f"<t>{body.replace('>', '')}</t>7\n" for body in bodies]


@pytest.mark.parametrize(
    "pattern", [pytest.param(r"<t>[^>]{0,40}</t>[0-9]{1,3}\n", marks=pytest.mark.slow), r"[<t/> ]{1,30};"]
)
def test_texts_with_added_tokens_have_the_tokenizers_spelling(pattern: str, tagged: Tokenizer) -> None:
    assert token_bytes_of(tagged).spelling is not None
    constraint, rng = compile_regex(pattern, tagged), random.Random(0)
    for _ in range(NUM_TEXTS):
        cursor, ids = constraint.start(), []
        while not cursor.finished:
            ids.append(int(rng.choice(cursor.allowed())))
            cursor.advance(ids[-1])
        ids = [token for token in ids if token != tagged.stop_id]
        assert re.fullmatch(pattern, tagged.decode(ids))
        assert tagged.encode(tagged.decode(ids)).tolist() == ids


@pytest.mark.parametrize("pattern", [r"<t>[^>]{0,40}</t>[0-9]{1,3}\n", r"[<t/> ]{1,30};"])
def test_every_text_with_added_tokens_can_be_drawn(pattern: str, tagged: Tokenizer) -> None:
    constraint = compile_regex(pattern, tagged)
    for text in texts(pattern, random.Random(1)):
        cursor = constraint.start()
        for token in tagged.encode(text).tolist():
            assert token in cursor.allowed(), text
            cursor.advance(token)
        assert cursor.finished
