from __future__ import annotations

from bench.checks.equal_orders import equal_lines
from grpo_core.model.tokenizer import load_tokenizer


def test_two_lines_of_equal_length_are_left() -> None:
    lines = ("F BRE S A PAR - GAS\n", "A PAR - BUR\n", "A PAR H\n", "A PAR - PIC\n")
    left = equal_lines(lines)
    tokenizer = load_tokenizer("tiny")
    assert len({len(tokenizer.encode(line)) for line in left}) == 1
    assert len(left) == 2
    assert set(left) <= set(lines)


def test_a_forced_line_stays() -> None:
    assert equal_lines(("A PAR H\n",)) == ("A PAR H\n",)
