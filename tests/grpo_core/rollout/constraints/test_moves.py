"""The tokens that a state can take are those whose bytes it can take, one after the other."""

from __future__ import annotations

import pytest

from grpo_core.model.tokenizer import load_tokenizer
from grpo_core.rollout.constraints.byte_automaton import ByteAutomaton
from grpo_core.rollout.constraints.moves import Moves
from grpo_core.rollout.constraints.token_bytes import token_bytes_of


@pytest.mark.parametrize(
    "pattern", [r"[a-z ]{1,20}\n", r"(?s).{0,5}</a>", r"x+(yes|no| \n)*", r"[xyz_]{1,6}=[0-9]{1,3};\n"]
)
def test_moves_are_those_of_byte_after_byte(pattern: str) -> None:
    token_bytes = token_bytes_of(load_tokenizer("tiny"))
    automaton = ByteAutomaton.compile(pattern)
    moves = Moves(automaton, *token_bytes.matrix)
    for state in range(automaton.dead):
        expected = {}
        for token, content in sorted(token_bytes.bytes_of.items()):
            at = state
            for byte in content:
                at = int(automaton.table[at, byte])
            if at != automaton.dead:
                expected[token] = at
        ids, states = moves.of(state)
        assert dict(zip(ids.tolist(), states.tolist(), strict=True)) == expected
        assert ids.tolist() == sorted(expected)
