"""The measurement of patterns: all arms follow the same completions, and those are of the pattern."""

from __future__ import annotations

import random
import re

from bench import constraint_speed
from bench.constraint_arms.arms import OwnArm, RefusedTokenError
from grpo_core.model.tokenizer import load_tokenizer

PATTERN = r"[a-z ]{1,30}\n"


def test_completions_are_of_the_pattern_and_end_where_it_ends() -> None:
    tokenizer = load_tokenizer("tiny")
    own = OwnArm(tokenizer)
    own.prepare(PATTERN)
    *whole, _ = constraint_speed.completions(own, 60, random.Random(0))
    assert len(whole) > 1
    assert all(re.fullmatch(PATTERN, tokenizer.decode(ids)) for ids in whole)


def test_completions_follow_a_text_where_the_pattern_lets_them() -> None:
    tokenizer = load_tokenizer("tiny")
    own = OwnArm(tokenizer)
    own.prepare(PATTERN)
    text = "the UNIT moves\nand holds\n"
    first, second, *_ = constraint_speed.completions(own, 60, random.Random(0), tokenizer.encode(text).tolist())
    assert tokenizer.decode(first).startswith("the ")
    assert "UNIT" not in tokenizer.decode(first)
    assert tokenizer.decode([*first, *second]).count("\n") == 2


def test_each_token_of_each_arm_is_timed() -> None:
    (figures,) = constraint_speed.measure([OwnArm(load_tokenizer("tiny"))], PATTERN, seed=0)
    assert figures.arm == "grpo_core"
    assert len(figures.token_ms) == constraint_speed.NUM_TOKENS - constraint_speed.NUM_WARM_TOKENS
    assert 0 < figures.percentile_ms(50) <= figures.percentile_ms(95)
    assert figures.first_ms > 0


class Refusing(OwnArm):
    """Takes none of a text's tokens."""

    name = "refusing"

    def advance(self, token: int) -> None:
        raise RefusedTokenError(self.name, token)


def test_an_arm_that_refuses_a_token_says_which_and_the_others_go_on() -> None:
    tokenizer = load_tokenizer("tiny")
    own, refusing = constraint_speed.measure([OwnArm(tokenizer), Refusing(tokenizer)], PATTERN, seed=0)
    assert len(own.token_ms) == constraint_speed.NUM_TOKENS - constraint_speed.NUM_WARM_TOKENS
    assert own.refused is None
    assert refusing.refused is not None
    assert refusing.token_ms == ()
    written = constraint_speed.line(refusing, lambda token: tokenizer.decode([token]))
    assert f"refuses token {refusing.refused}, `{tokenizer.decode([refusing.refused])}`" in written
