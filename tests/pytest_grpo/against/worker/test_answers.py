from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from pytest_grpo.against.worker.answers import as_json, difference
from pytest_grpo.agreement import close_values, nothing_to_check, same_tokens


@dataclass(frozen=True)
class Answer:
    ids: tuple[int, ...]
    text: str


def test_answers_become_json() -> None:
    torch = pytest.importorskip("torch")
    answer = {
        "a": (1, 2.5),
        3: np.array([[1, 2]]),
        "t": torch.tensor([0.5], requires_grad=True),
        "d": Answer((1,), "x"),
    }
    expected = {"a": [1, 2.5], "3": [[1, 2]], "t": [0.5], "d": {"ids": [1], "text": "x"}}
    assert json.loads(json.dumps(as_json(answer))) == expected
    with pytest.raises(TypeError, match="answers of type object cannot be sent"):
        as_json([object()])


def test_the_tests_own_rule_decides() -> None:
    def rule(outputs: Mapping[str, object]) -> str:
        return close_values(atol=0.1)({"cold": outputs["cold"], "base": [1.0]})

    own = {"cold": [1.0], "warm": [1.0]}
    assert difference("cold", own, [1.05], rule, "main").text == ""
    assert "differ" in difference("cold", own, [2.0], rule, "main").text
    found = difference("cold", own, [1.5], close_values(rtol=0.01), "main")
    assert (found.text, found.rule) == ("arms 'here' and 'main' differ: 1 and 1.5", "agree=close_values(rtol=0.01)")
    assert difference("cold", {"cold": [1, 2]}, [1, 3], same_tokens, "main").text


def test_a_rule_is_named_where_the_test_has_none() -> None:
    close = difference("step", {"step": [1.0, 5.0]}, [1.0001, 5.0], nothing_to_check, "main")
    assert (close.text, close.rule) == ("", "values within 0.001")
    far = difference("step", {"step": [1.0]}, [1.1], nothing_to_check, "main")
    assert far.text == "arms 'here' and 'main' differ: 1 and 1.1"
    ids = difference("step", {"step": [50_000]}, [50_001], nothing_to_check, "main")
    assert (bool(ids.text), ids.rule) == (True, "equal values")
