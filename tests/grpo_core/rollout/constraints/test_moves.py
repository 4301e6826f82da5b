"""The tokens that a state can take are those whose bytes it can take, one after the other."""

from __future__ import annotations

import pytest

from grpo_core.model.tokenizer import load_tokenizer
from grpo_core.rollout.constraints import moves
from grpo_core.rollout.constraints.automaton.byte_automaton import ByteAutomaton
from grpo_core.rollout.constraints.moves import Moves
from grpo_core.rollout.constraints.token_bytes import token_bytes_of

PATTERNS = (r"[a-z ]{1,20}\n", r"(?s).{0,5}</a>", r"x+(yes|no| \n)*", r"[xyz_]{1,6}=[0-9]{1,3};\n")


def _expected(automaton: ByteAutomaton, bytes_of: dict[int, bytes], state: int) -> dict[int, int]:
    """The live state to which each token leads from ``state``, byte after byte."""
    targets = {token: automaton.follow(state, content) for token, content in sorted(bytes_of.items())}
    return {token: target for token, target in targets.items() if target != automaton.dead}


@pytest.mark.parametrize("long_bytes", [1, 3, moves.LONG_BYTES])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_moves_are_those_of_byte_after_byte(pattern: str, long_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "LONG_BYTES", long_bytes)
    token_bytes = token_bytes_of(load_tokenizer("tiny"))
    automaton = ByteAutomaton.compile(pattern)
    found = Moves(automaton, *token_bytes.matrix)
    for state in range(automaton.dead):
        expected = _expected(automaton, token_bytes.bytes_of, state)
        ids, states = found.of(state)
        assert dict(zip(ids.tolist(), states.tolist(), strict=True)) == expected
        assert ids.tolist() == sorted(expected)
        assert found.tokens(state).tolist() == ids.tolist()


@pytest.mark.parametrize("long_bytes", [1, 3, moves.LONG_BYTES])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_groups_of_a_layout_have_the_heads_of_each_token(
    pattern: str, long_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "LONG_BYTES", long_bytes)
    token_bytes = token_bytes_of(load_tokenizer("tiny"))
    automaton = ByteAutomaton.compile(pattern)
    found = Moves(automaton, *token_bytes.matrix)
    for state in range(automaton.dead):
        layout = found.layout(state)
        longer = ((first, layout.longer[among]) for first, among in found.groups_of_longer(state, layout))
        groups = [(first, layout.tokens[places].tolist()) for first, places in (*layout.groups, *longer)]
        heads = {token: automaton.heads(first) for first, tokens in groups for token in tokens}
        expected = _expected(automaton, token_bytes.bytes_of, state)
        assert heads == {token: automaton.heads(target) for token, target in expected.items()}
        assert sum(len(tokens) for _, tokens in groups) == len(heads)


def test_states_of_a_counter_share_a_layout() -> None:
    automaton = ByteAutomaton.compile(r"[^<]{0,200}</a>")
    found = Moves(automaton, *token_bytes_of(load_tokenizer("tiny")).matrix)
    far = [automaton.follow(0, b"a" * num) for num in (0, 1, 50, 90)]
    assert len({id(found.layout(state)) for state in far}) == 1
    assert found.layout(automaton.follow(0, b"a" * 190)) is not found.layout(0)
