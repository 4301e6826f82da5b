"""Patterns that explode are refused before they do, and the others are compiled in this process."""

from __future__ import annotations

import subprocess

import pytest

from grpo_core.errors import ConstraintError
from grpo_core.rollout.constraints.automaton import byte_automaton
from grpo_core.rollout.constraints.automaton.byte_automaton import MAX_STATES, ByteAutomaton
from grpo_core.rollout.constraints.automaton.explosion import may_explode

EXPLOSIVE = (
    "((a{1,99}){1,99}){1,99}",
    "(((a|b){1,50}c){1,50}d){1,50}",
    "(a|b)*a(a|b){24}",
    r"(\p{L}{1,300}x){1,300}",
    "(?s)(.{0,4000}){9}",
    "a{100000}",
)


@pytest.mark.parametrize(
    "pattern", [EXPLOSIVE[0], *(pytest.param(pattern, marks=pytest.mark.slow) for pattern in EXPLOSIVE[1:])]
)
def test_a_pattern_that_explodes_is_refused_in_one_line(pattern: str) -> None:
    assert may_explode(pattern)
    with pytest.raises(ConstraintError, match="explodes, its automaton needs more than 50000 states") as error:
        ByteAutomaton.compile(pattern)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "num_states"),
    [
        (r"[a-z ]{1,200}\n", 210),
        (r"<think>[^<]{0,400}</think><answer>[0-9]{1,3}</answer>\n", 4000),
        (r"-?[0-9]+(\.[0-9]+)?", 10),
        (r'\{"name": "[^"]*", "tags": \[("[a-z]+"(, )?)*\]\}', 50),
    ],
)
def test_other_patterns_are_compiled_here(pattern: str, num_states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process for a pattern that cannot explode")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert ByteAutomaton.compile(pattern).dead <= num_states


@pytest.mark.parametrize(
    "pattern", ["[a-z]+x{1,9}", "(a|b)*a(a|b){4}", pytest.param(r"\p{L}+-{2,3}", marks=pytest.mark.slow)]
)
def test_a_pattern_that_might_explode_is_the_same_from_another_process(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert may_explode(pattern)
    elsewhere = ByteAutomaton.compile(pattern)
    monkeypatch.setattr(byte_automaton, "may_explode", lambda _: False)
    here = ByteAutomaton.compile(pattern)
    assert elsewhere.dead == here.dead
    assert _texts(elsewhere) == _texts(here)


def _texts(automaton: ByteAutomaton) -> set[bytes]:
    """All texts of at most three bytes that lead somewhere, and which of them match."""
    found = {(b"", 0)}
    for _ in range(3):
        found |= {
            (text + bytes([byte]), int(automaton.table[state, byte]))
            for text, state in found
            for byte in range(256)
            if automaton.table[state, byte] != automaton.dead
        }
    return {text + (b"!" if automaton.is_final[state] else b"") for text, state in found}


@pytest.mark.parametrize("pattern", ["[a-z]+(", r"\p{L}+{2}a(?=b)"])
def test_what_is_no_expression_is_said_from_another_process_too(pattern: str) -> None:
    with pytest.raises(ConstraintError, match="allowed is the syntax"):
        ByteAutomaton.compile(pattern + "{1,9}{1,9999}")


def test_states_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_automaton, "MAX_STATES", 10)
    with pytest.raises(ConstraintError, match="more than 10 states"):
        ByteAutomaton.compile("[a-z]{20}")
    assert MAX_STATES == 50_000


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a*", False),
        ("a{1,9}", False),
        ("(ab){2}c{3}", False),
        (r"[]a-z{]+", False),
        (r"[^\]{}]*x", False),
        (r"\{1,9}+", False),
        ("a+b{2}", True),
        ("(a{9}){,9}b*", True),
        ("a{2,}", True),
        (r"\w{100}", True),
    ],
)
def test_what_may_explode(pattern: str, expected: bool) -> None:
    assert may_explode(pattern) is expected
