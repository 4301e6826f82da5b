"""The measurement of patterns: all arms follow the same completions, and those are of the pattern."""

from __future__ import annotations

import random
import re

from bench import constraint_speed
from bench.constraint_arms.arms import OwnArm
from grpo_core.model.tokenizer import load_tokenizer

PATTERN = r"[a-z ]{1,30}\n"


def test_completions_are_of_the_pattern_and_end_where_it_ends() -> None:
    tokenizer = load_tokenizer("tiny")
    own = OwnArm(tokenizer)
    own.prepare(PATTERN)
    *whole, _ = constraint_speed.completions(own, 60, random.Random(0))
    assert len(whole) > 1
    assert all(re.fullmatch(PATTERN, tokenizer.decode(ids)) for ids in whole)


def test_each_token_of_each_arm_is_timed() -> None:
    (figures,) = constraint_speed.measure([OwnArm(load_tokenizer("tiny"))], PATTERN, seed=0)
    assert figures.arm == "grpo_core"
    assert figures.num_tokens == constraint_speed.NUM_TOKENS
    assert 0 < figures.median_ms <= figures.p95_ms
    assert figures.first_ms > 0
