from __future__ import annotations

import pytest

from grpo_core.model.tokenizer import load_tokenizer
from grpo_core.rollout.constraints.automaton.byte_automaton import ByteAutomaton
from grpo_core.rollout.constraints.continuations import Continuations
from grpo_core.rollout.constraints.token_automaton import TokenAutomaton
from grpo_core.rollout.constraints.token_bytes import token_bytes_of


def test_a_text_that_is_too_long_near_an_end_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """States 20 and 90 letters from the end see the same as far as an ending reaches, and share what was found."""
    token_bytes = token_bytes_of(load_tokenizer("tiny"))
    automaton = TokenAutomaton(token_bytes, ByteAutomaton.compile("[a-z]{100}"))
    context = token_bytes.encode(b"the")
    assert context is not None
    token = context[0]
    far, near = (automaton.bytes.follow(0, b"a" * num) for num in (10, 80))
    assert automaton.bytes.head_class[far] == automaton.bytes.head_class[near]
    found = iter([b"b" * 30, None])
    monkeypatch.setattr(Continuations, "_find", lambda *_: next(found))
    monkeypatch.setattr(type(automaton.writing), "is_written", lambda *_: True)
    known = automaton._continuations._known

    assert known(context, token, far) == b"b" * 30
    assert known(context, token, near) is None
    assert known(context, token, far) == b"b" * 30
