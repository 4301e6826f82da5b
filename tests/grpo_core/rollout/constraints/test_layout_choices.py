"""What is kept for a layout and a kind of context is what each node would find alone."""

from __future__ import annotations

import random

import numpy as np
import pytest

from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.constraints import layout_choices, moves
from grpo_core.rollout.constraints.automaton.byte_automaton import ByteAutomaton
from grpo_core.rollout.constraints.ending_choices import NEVER
from grpo_core.rollout.constraints.lines import Line
from grpo_core.rollout.constraints.token_automaton import TokenAutomaton, TokenNode
from grpo_core.rollout.constraints.token_bytes import TokenBytes
from tests.grpo_core.rollout.constraints.real_tokenizers import real_tokenizer

REAL = [pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "llama3_1", "gptoss")]
PATTERNS = (
    r"<think>[^<]{0,120}</think>[0-9]{1,3}\n",
    r"(we|I|!)'(s|t|ll|x){1,9}[^<]{0,9}",
    r"[\u0061\u0301\u00e9\u4e2d \n]{1,60}",
)
NUM_TOKENS = 30


@pytest.fixture(params=["tiny", "gpt2", *REAL])
def spelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "tiny":
        return load_tokenizer("tiny")
    if request.param == "gpt2":
        return request.getfixturevalue("tokenizer")
    return real_tokenizer(request.param, tmp_path_factory.mktemp("tokenizers"))


def _plain(alone: TokenAutomaton, state: int, context: Line) -> dict[int, int]:
    """The tokens that may follow with the number of their ending, from every token's own state."""
    tokens, states = alone._moves.of(state)
    choices = alone.writing.choices(context, tokens, states)
    held = dict(alone._continuations.of(context, state, tokens, choices))
    assert set(held) <= set(tokens[choices != NEVER].tolist())
    return dict(zip(tokens[choices != NEVER].tolist(), choices[choices != NEVER].tolist(), strict=True))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_nodes_of_a_random_walk_are_those_of_each_token_alone(
    pattern: str, spelled: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "LONG_BYTES", 8)
    monkeypatch.setattr(layout_choices, "_MAX_BOARDS", 4)
    automaton = ByteAutomaton.compile(pattern)
    kept, alone = (TokenAutomaton(TokenBytes(spelled), automaton) for _ in range(2))
    rng = random.Random(0)
    node = kept.first()
    for _ in range(NUM_TOKENS):
        if not isinstance(node, TokenNode):  # the end
            node = kept.first()
        assert isinstance(node, TokenNode)
        if node._rest is None:
            found = dict(zip(node.ids.tolist(), node._choices.tolist(), strict=True))
            found.pop(spelled.stop_id, None)
            assert found == _plain(alone, node._state, node._context), alone.writing.text(node._context)
        node = node.follow(rng.choice(node.ids.tolist())) if len(node.ids) else None


def test_boards_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_choices, "_MAX_BOARDS", 2)
    token_bytes = TokenBytes(load_tokenizer("tiny"))
    automaton = TokenAutomaton(token_bytes, ByteAutomaton.compile(r"[^<]{0,120}</a>"))
    node, rng = automaton.first(), random.Random(0)
    for _ in range(30):
        node = node.follow(rng.choice(node.ids.tolist())) if isinstance(node, TokenNode) and len(node.ids) else None
        node = node or automaton.first()
    choices = token_bytes.choices
    assert choices is not None
    assert len(choices._boards) == 2
    assert all(len(board.starting) == len(layout.tokens) for (_, layout), board in choices._boards.items())
    assert np.uint8 == next(iter(choices._boards.values())).starting.dtype
