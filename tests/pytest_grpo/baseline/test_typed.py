from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

import pytest

from pytest_grpo.baseline.typed import TypedError, read_typed


@dataclass(frozen=True)
class Part:
    name: str
    ratio: float
    note: str = ""


@dataclass(frozen=True)
class Whole:
    kind: Literal["at_least", "at_most"]
    phase: int | None
    is_dirty: bool
    parts: list[tuple[str, Part]]
    gpus: tuple[str, ...]
    arms: dict[str, dict[str, list[float]]] | None
    conditions: dict[str, object] | None = None


WHOLE = Whole(
    "at_least",
    2,
    False,
    [("a", Part("x", 1.5))],
    ("L4", "T4"),
    {"fast": {"seconds": [0.1, 2.0]}},
    {"problem": [1, "x"]},
)


def as_json(value: object = WHOLE) -> dict:
    return json.loads(json.dumps(asdict(value)))  # type: ignore[call-overload]


def test_what_was_written_is_read() -> None:
    assert read_typed(Whole, as_json()) == WHOLE


def test_a_whole_number_is_a_float_where_one_is_expected_and_unknown_keys_are_ignored() -> None:
    content = as_json() | {"new": 1, "arms": {"fast": {"seconds": [1]}}, "phase": None, "arms_of": None}
    del content["conditions"]
    read = read_typed(Whole, content)
    assert (read.arms, read.phase, read.conditions) == ({"fast": {"seconds": [1.0]}}, None, None)
    assert isinstance(read.arms and read.arms["fast"]["seconds"][0], float)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"kind": "above"}, "kind: 'above' is not one of at_least, at_most"),
        ({"phase": 2.5}, "phase: 2.5 is not a whole number"),
        ({"phase": True}, "phase: True is not a whole number"),
        ({"is_dirty": 0}, "is_dirty: 0 is not true or false"),
        ({"parts": [["a"]]}, "parts.0: ['a'] is not a list of 2"),
        ({"parts": [["a", {"name": "x"}]]}, "parts.0.1.ratio: it is missing"),
        ({"parts": [["a", {"name": "x", "ratio": None}]]}, "parts.0.1.ratio: None is not a number"),
        ({"parts": 3}, "parts: 3 is not a list"),
        ({"gpus": ["L4", 1]}, "gpus.1: 1 is not text"),
        ({"arms": []}, "arms: [] is not an object"),
        ({"arms": {"fast": {"seconds": ["x" * 99]}}}, f"arms.fast.seconds.0: '{'x' * 39}... is not a number"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(changed: dict[str, object], says: str) -> None:
    with pytest.raises(TypedError) as refused:
        read_typed(Whole, as_json() | changed)
    assert str(refused.value) == says


@pytest.mark.parametrize("content", [None, [], 3, "x"])
def test_what_is_no_object_is_refused(content: object) -> None:
    with pytest.raises(TypedError, match="is not an object"):
        read_typed(Whole, content)
