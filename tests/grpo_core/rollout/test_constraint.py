from __future__ import annotations

import random

import pytest

from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.environments.diplomacy.synthetic import sample_position
from grpo_core.errors import ConstraintError
from grpo_core.model import Tokenizer
from grpo_core.rollout.constraint import ConstraintCursor, Line, LineConstraint, build_trie


def walk(constraint: LineConstraint, tokens: Line) -> list[tuple[int, ...]]:
    """What was allowed before each of ``tokens``, sorted."""
    cursor = ConstraintCursor(constraint)
    allowed = []
    for token in tokens:
        assert not cursor.finished
        allowed.append(tuple(sorted(cursor.allowed())))
        cursor.advance(token)
    assert cursor.finished
    return allowed


def test_a_trie_holds_every_line_once() -> None:
    assert build_trie([(1, 2, 3), (1, 2, 4), (5,), (5,)]) == {1: {2: {3: {}, 4: {}}}, 5: {}}


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
    cursor = ConstraintCursor(LineConstraint((((1, 2), (3, 4)),)))
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
    cursor = ConstraintCursor(LineConstraint((((1,),), ((1,),)), distinct=True))
    with pytest.raises(ConstraintError, match="segment without lines"):
        cursor.advance(1)


def test_cursors_of_one_constraint_do_not_meet() -> None:
    constraint = LineConstraint((((1, 2), (3, 4)),) * 2, distinct=True)
    first, second = ConstraintCursor(constraint), ConstraintCursor(constraint)
    for token in (1, 2):
        first.advance(token)

    assert sorted(second.allowed()) == [1, 3]
    assert list(first.allowed()) == [3]


def line_of(tokenizer: Tokenizer, text: str) -> Line:
    return tuple(tokenizer.encode(text).tolist())


@pytest.mark.parametrize("name", ["model_folder", "tiny"])
def test_tokens_of_the_lines_are_the_tokens_of_the_answer(name: str, request: pytest.FixtureRequest) -> None:
    """So the policy is trained on the ids that a tokenizer would give for the same answer."""
    from grpo_core.model import load_tokenizer

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
