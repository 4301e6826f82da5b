"""What is kept for all contexts of one kind is what each context has alone."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.constraints import ending_choices
from grpo_core.rollout.constraints.automaton.byte_automaton import ByteAutomaton
from grpo_core.rollout.constraints.ending_choices import NEARLY, NEVER
from grpo_core.rollout.constraints.token_automaton import TokenAutomaton
from grpo_core.rollout.constraints.token_bytes import token_bytes_of
from tests.grpo_core.rollout.constraints.real_tokenizers import real_tokenizer

REAL = [pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "llama3_1", "gptoss")]
PATTERN = r"([^<]{0,90}|'[a-zA-Z']{1,4}|[0-9 \n]{1,9})</x>"
TEXTS = (
    "",
    "the",
    " a",
    "don'",
    "x'l",
    "12",
    "12345",
    "  ",
    "\n",
    " \n ",
    "--",
    " (",
    "...",
    "Ab",
    "\u00e9",
    "q\u0308",
    "\u4e2d",
)


@pytest.fixture(params=["tiny", *REAL])
def spelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "tiny":
        return load_tokenizer("tiny")
    return real_tokenizer(request.param, tmp_path_factory.mktemp("tokenizers"))


def test_turns_by_kind_are_those_of_encoding_text_after_text(
    spelled: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending_choices, "_WIDE", 0)
    token_bytes = token_bytes_of(spelled)
    automaton = TokenAutomaton(token_bytes, ByteAutomaton.compile(PATTERN))
    rng = np.random.default_rng(0)
    num_held = 0
    for text in TEXTS:
        context = token_bytes.encode(text.encode())
        assert context is not None, text
        state = 0
        for byte in text.encode():
            state = int(automaton.bytes.table[state, byte])
        tokens, states = automaton._moves.of(state)
        chosen = np.sort(rng.choice(len(tokens), size=min(len(tokens), 150), replace=False))
        tokens, states = tokens[chosen], states[chosen]
        found = automaton.writing.choices(context, tokens, states)
        monkeypatch.setattr(type(token_bytes), "spelling", None)  # each text is encoded then
        plain = automaton.writing._one_by_one(context, tokens, states)
        monkeypatch.undo()
        monkeypatch.setattr(ending_choices, "_WIDE", 0)
        different = np.flatnonzero((found < NEARLY) != (plain != NEVER))
        assert not len(different), (text, [token_bytes.bytes_of[int(token)] for token in tokens[different]])
        num_held += int((found < NEARLY).sum())
    assert num_held > 300
