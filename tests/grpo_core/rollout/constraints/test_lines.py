from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.environments.arithmetic import answer
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.environments.diplomacy.synthetic import sample_position
from grpo_core.errors import ConstraintError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.lines import Line, LineConstraint, LineCursor, TrieNode, build_trie


def walk(constraint: LineConstraint, tokens: Line) -> list[tuple[int, ...]]:
    """What was allowed before each of ``tokens``, ascending."""
    cursor = LineCursor(constraint)
    allowed = []
    for token in tokens:
        assert not cursor.finished
        allowed.append(cursor.allowed())
        assert list(allowed[-1]) == sorted(allowed[-1])
        cursor.advance(token)
    assert cursor.finished
    return allowed


def lines_of(node: TrieNode) -> list[Line]:
    """The lines of a trie, ascending."""
    return [(token, *rest) for token in node.ids for rest in lines_of(node.children[token]) or [()]]


def test_a_trie_holds_every_line_once() -> None:
    trie = build_trie([(5,), (1, 2, 4), (1, 2, 3), (5,)])
    assert lines_of(trie) == [(1, 2, 3), (1, 2, 4), (5,)]
    assert trie.ids is trie.ids  # made once: it is asked for every token
    assert trie.follow(1).follow(2).ids == (3, 4)


def test_a_line_is_taken_out_of_a_copy() -> None:
    lines = [(1, 2, 3), (1, 2, 4), (1, 5), (6,)]
    trie = build_trie(lines)
    for line in lines:
        left = trie.without(line)
        assert left is not None
        assert lines_of(left) == [other for other in lines if other != line]
    assert lines_of(trie) == lines
    assert trie.without((1, 7)) is trie
    assert trie.without((6,)).children[1] is trie.children[1]  # pyright: ignore[reportOptionalMemberAccess]  # shared
    assert build_trie([(1, 2)]).without((1, 2)) is None


@pytest.mark.parametrize("lines", [[(1, 2), (1, 2, 3)], [(1, 2, 3), (1,)], [(4,), (4, 5), (6,)]])
def test_a_line_that_begins_another_is_refused(lines: list[Line]) -> None:
    with pytest.raises(ConstraintError, match="begins another one; end every line alike"):
        build_trie(lines)


@pytest.mark.parametrize(
    ("segments", "match"),
    [
        ((), "without segments"),
        (((),), "segment without lines"),
        ((((1,),), ()), "segment without lines"),
        ((((1,), ()),), "empty line"),
        ((((),),), "empty line"),
    ],
)
def test_constraints_that_allow_nothing_are_refused(segments: tuple[tuple[Line, ...], ...], match: str) -> None:
    with pytest.raises(ConstraintError, match=match) as error:
        LineConstraint(segments)
    assert "\n" not in str(error.value)


def test_a_walk_goes_through_the_segments_in_order() -> None:
    constraint = LineConstraint((((1, 2, 9), (1, 3, 9)), ((4, 9),), ((5, 9), (6, 7, 9))))

    assert walk(constraint, (1, 3, 9, 4, 9, 6, 7, 9)) == [(1,), (2, 3), (9,), (4,), (9,), (5, 6), (7,), (9,)]
    assert constraint.max_tokens == 3 + 2 + 3


def test_only_allowed_tokens_can_be_taken() -> None:
    cursor = LineCursor(LineConstraint((((1, 2), (3, 4)),)))
    cursor.advance(1)
    with pytest.raises(KeyError):
        cursor.advance(4)
    assert tuple(cursor.allowed()) == (2,)


def test_distinct_choices_come_once() -> None:
    lines = ((1, 2, 9), (1, 3, 9), (4, 9))
    constraint = LineConstraint((lines,) * 3, distinct=True)

    assert walk(constraint, (1, 3, 9, 4, 9, 1, 2, 9)) == [(1, 4), (2, 3), (9,), (1, 4), (9,), (1,), (2,), (9,)]
    again = LineConstraint((lines,) * 3)
    assert walk(again, (1, 3, 9, 1, 3, 9, 1, 3, 9))[3:5] == [(1, 4), (2, 3)]


def test_distinct_choices_that_run_out_are_a_clear_error() -> None:
    cursor = LineCursor(LineConstraint((((1,),), ((1,),)), distinct=True))
    with pytest.raises(ConstraintError, match="segment without lines that earlier segments left") as error:
        cursor.advance(1)
    assert "\n" not in str(error.value)


@settings(max_examples=50, database=None, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=4, max_size=12, unique_by=tuple),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.randoms(use_true_random=False),
)
def test_distinct_choices_are_those_of_a_trie_built_anew(
    lines: list[list[int]], keeps: list[bool], rng: random.Random
) -> None:
    ended = tuple((*line, 9) for line in lines)
    segments = tuple(ended if keep else tuple(rng.sample(ended, len(ended) - 1)) for keep in keeps)
    cursor = LineConstraint(segments, distinct=True).start()
    chosen: list[Line] = []
    for segment in segments:
        node = build_trie([line for line in segment if line not in chosen])
        line: Line = ()
        while node.children:
            assert cursor.allowed() == node.ids
            line = (*line, rng.choice(node.ids))
            cursor.advance(line[-1])
            node = node.follow(line[-1])
        chosen.append(line)
    assert cursor.finished


def test_equal_segments_share_one_trie() -> None:
    lines, others = ((1, 2, 9), (4, 9)), ((5, 9),)
    first, second, third = LineConstraint((lines, others, lines)).tries
    assert first is third
    assert second is not first


def test_cursors_of_one_constraint_do_not_meet() -> None:
    constraint = LineConstraint((((1, 2), (3, 4)),) * 2, distinct=True)
    first, second = LineCursor(constraint), LineCursor(constraint)
    for token in (1, 2):
        first.advance(token)

    assert second.allowed() == (1, 3)
    assert first.allowed() == (3,)


def line_of(tokenizer: Tokenizer, text: str) -> Line:
    return tuple(tokenizer.encode(text).tolist())


@pytest.mark.parametrize("name", ["model_folder", "tiny"])
def test_tokens_of_the_lines_are_the_tokens_of_the_answer(name: str, request: pytest.FixtureRequest) -> None:
    """So the policy is trained on the ids that a tokenizer would give for the same answer."""
    from grpo_core.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(request.getfixturevalue(name)) if name != "tiny" else name)
    rng = random.Random(0)
    environment = DiplomacyEnvironment(horizon=1)
    answers: list[list[str]] = []
    for _ in range(2):
        observations = environment.observe()
        chosen = {item.agent: [rng.choice(lines) for lines in item.choices or ()] for item in observations}
        answers.extend(chosen.values())
        environment.step({agent: "".join(lines) for agent, lines in chosen.items()})
    for _ in range(30):
        _, _, choices = sample_position(rng)
        answers.append([rng.choice(lines) for lines in choices])

    assert len(answers) > 40
    for lines in answers:
        joined = sum((line_of(tokenizer, line) for line in lines), start=())
        assert joined == line_of(tokenizer, "".join(lines))
        assert tokenizer.decode(joined) == "".join(lines)


def test_real_choices_build_a_constraint_that_accepts_every_line(tokenizer: Tokenizer) -> None:
    for observation in DiplomacyEnvironment(horizon=1).observe():
        assert observation.choices is not None
        segments = tuple(tuple(line_of(tokenizer, line) for line in lines) for lines in observation.choices)
        constraint = LineConstraint(segments)
        for index in range(max(map(len, segments))):
            tokens = sum((lines[index % len(lines)] for lines in segments), start=())
            walk(constraint, tokens)
            assert len(tokens) <= constraint.max_tokens


def test_sums_as_lines_are_spelled_by_the_tokenizer(tokenizer: Tokenizer) -> None:
    """Any two numbers, a line each."""
    lines = tuple(f"{answer(number, 0)}\n" for number in range(100))
    segment = tuple(line_of(tokenizer, line) for line in lines)
    rng = random.Random(0)
    for _ in range(50):
        cursor, ids = LineConstraint((segment, segment)).start(), []
        while not cursor.finished:
            ids.append(rng.choice(cursor.allowed()))
            cursor.advance(ids[-1])
        text = tokenizer.decode(ids)
        assert [f"{line}\n" in lines for line in text.splitlines()] == [True, True]
        assert tokenizer.encode(text).tolist() == ids
