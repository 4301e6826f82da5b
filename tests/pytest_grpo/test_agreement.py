from __future__ import annotations

import copy
import math
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pytest_grpo.agreement import Agreement, close_values, same_answers, same_tokens


@dataclass(frozen=True, slots=True)
class Answer:
    ids: np.ndarray
    reward: float


def differs(agree: Agreement, first: object, second: object) -> bool:
    says = [agree({"a": first, "b": second}), agree({"a": second, "b": first})]
    assert bool(says[0]) == bool(says[1])
    return bool(says[0])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([1, 2]), np.array([1, 2])),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([[1, 2], [3, 4]]), [(1, 2), [3, 4]]),
        ([np.array([1]), torch.tensor([2, 3])], [[1], [2, 3]]),
        (torch.tensor([0.5], dtype=torch.bfloat16), np.array([0.5])),
        (torch.tensor([0.5], requires_grad=True), [0.5]),
        (torch.tensor(3), 3),
        (np.int64(3), 3),
        (np.array(["e2e4"]), ["e2e4"]),
        ({"ids": np.array([1])}, {"ids": torch.tensor([1])}),
        (Answer(np.array([1, 2]), 0.5), Answer(np.array([1, 2]), 0.5)),
    ],
)
def test_arrays_and_tensors_equal_lists_of_the_same_values(first: object, second: object) -> None:
    assert not differs(same_tokens, first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (torch.tensor([1, 2]), [1, 2, 3]),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros((2, 3)), np.zeros(6)),
        (np.zeros((0, 3)), np.zeros((0, 4))),
        (torch.tensor([0.1], dtype=torch.bfloat16), torch.tensor([0.1])),
        (np.array([math.nan]), np.array([math.nan])),
        ([math.nan], [math.nan]),
        (torch.tensor(math.nan), math.nan),
        ({"ids": np.array([1])}, {"ids": np.array([2])}),
        (Answer(np.array([1, 2]), 0.5), Answer(np.array([1, 3]), 0.5)),
        ([[1], 2], [[1], [2]]),
        ("12", ["1", "2"]),
    ],
)
def test_other_tokens_differ(first: object, second: object) -> None:
    assert differs(same_tokens, first, second)


def test_the_first_answer_that_differs_is_named() -> None:
    answers = {"a": [np.array([1, 2]), np.array([3, 4])], "b": [[1, 2], [3, 5]]}
    assert same_tokens(answers) == "arms 'a' and 'b' answered differently: answer 1 of 2"
    assert same_tokens({"a": np.array([1]), "b": [1, 2]}) == "arms 'a' and 'b' answered differently: 1 and 2 answers"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([1.0, 2.0]), [1.0005, 2.0]),
        (torch.tensor([[1.0], [2.0]], dtype=torch.bfloat16), np.array([[1.0], [2.0005]])),
        ([torch.tensor([1.0, 2.0]), 3], [[1.0, 2.0005], 3.0]),
        (torch.tensor(1.0, requires_grad=True), np.float32(1.0005)),
        (np.array([1], dtype=np.uint8), np.array([1], dtype=np.uint8)),
        (np.array([-math.inf, 1.0]), [-math.inf, 1.0]),
        ({"loss": 1.0}, {"loss": np.float64(1.0005)}),
        ((value for value in (1.0, 2.0)), [1.0, 2.0]),
        (np.array([1 + 1j]), [1 + 1j]),
    ],
)
def test_values_within_the_tolerance_agree(first: object, second: object) -> None:
    assert close_values(atol=1e-3)({"a": first, "b": second}) == ""


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (np.array([1.0, 2.0]), torch.tensor([1.0, 2.01]), "differ: 2 and 2.01"),
        (np.array([1], dtype=np.uint8), np.array([2], dtype=np.uint8), "differ: 1 and 2"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "gave the shapes (2, 3) and (3, 2)"),
        ([[1.0], [2.0]], [1.0, 2.0], "gave values of other shapes"),
        ([1.0, 2.0], np.array([1.0]), "gave 2 and 1 values"),
        ({"loss": 1.0}, {"los": 1.0}, "gave the keys ['loss'] and ['los']"),
        (np.array([math.nan]), np.array([math.nan]), "differ: nan and nan"),
        (torch.tensor([math.nan], dtype=torch.bfloat16), [1.0], "differ: nan and 1"),
        ([math.inf], [5.0], "differ: inf and 5"),
        (np.array([math.inf]), np.array([5.0]), "differ: inf and 5"),
    ],
)
def test_values_outside_of_it_differ(first: object, second: object, says: str) -> None:
    assert close_values(rtol=1e-3)({"a": first, "b": second}) == f"arms 'a' and 'b' {says}"


@pytest.mark.parametrize("agree", [same_tokens, close_values()])
@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"a": None, "b": None}, "no arm returns an output; return Sample(output=...) from every arm, or write agree="),
        ({"a": None}, "no arm returns an output"),
        ({"a": 1, "b": None}, "no output of 'b'; return"),
    ],
)
def test_outputs_that_are_not_there_do_not_agree(agree: Agreement, outputs: dict[str, object], says: str) -> None:
    with pytest.raises(pytest.UsageError, match=says.replace("(", r"\(").replace(")", r"\)")):
        agree(outputs)


@pytest.mark.parametrize("output", ["abc", [1.0, "x"], object()])
def test_only_numbers_are_close(output: object) -> None:
    with pytest.raises(pytest.UsageError, match="is not a number; return numbers, arrays or tensors"):
        close_values()({"a": output, "b": copy.copy(output)})


@pytest.mark.parametrize("agree", [same_tokens, close_values()])
@pytest.mark.parametrize("output", [[1], {"x": 1}, np.array([1]), torch.tensor([1]), iter([1])])
def test_one_buffer_for_both_outputs_is_a_mistake(agree: Agreement, output: object) -> None:
    """The arm that runs later writes over what the other one answered."""
    with pytest.raises(pytest.UsageError, match=r"arms 'a' and 'b' return one and the same .*; return a copy"):
        agree({"a": output, "b": output})
    assert agree({"a": 1, "b": 1}) == ""


def test_agreeing_imports_no_torch_and_no_numpy(pytester: pytest.Pytester) -> None:
    agreeing = "from pytest_grpo.agreement import *; print(repr(same_tokens({'a': [1], 'b': [1]})))"
    script = f"import sys; {agreeing}; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    assert pytester.run(sys.executable, "-c", script).stdout.str() == "''\n[]"


def answers(*of: tuple[list[int], list[float]]) -> list[tuple[list[int], list[float]]]:
    return list(of)


LONG = ([5, 6, 7, 8], [-0.1, -0.2, -0.3, -0.4])


@pytest.mark.parametrize(
    ("other", "atol", "says"),
    [
        (answers(LONG), 0.0, ""),
        (answers(([5, 6, 7, 8], [-9.0, -9.0, -9.0, -9.0])), 0.0, ""),  # without a tolerance tokens say it all
        (answers(([5, 6, 7, 9], [-0.1, -0.2, -0.3, -0.4])), 0.0, "answered differently: answer 0 of 1"),
        (answers(([5, 6, 7], [-0.1, -0.2, -0.3])), 0.0, "answered differently: answer 0 of 1"),
        (answers(([5, 6, 7, 8], [-0.105, -0.2, -0.3, -0.4])), 0.01, ""),
        (answers(([5, 6, 7, 8], [-0.2, -0.2, -0.3, -0.4])), 0.01, "answered differently: answer 0 of 1"),
        (answers(([5, 6, 9, 1], [-0.1, -0.2, -0.305, -5.0])), 0.01, ""),  # a tie at the third token
        (answers(([5, 6, 9, 1], [-0.1, -0.2, -2.0, -5.0])), 0.01, "answered differently: answer 0 of 1"),
        (answers(([5, 9, 9, 1], [-0.1, -0.2, -2.0, -5.0])), 0.01, "share 1 of 4 tokens; half of them must be"),
        (answers(([5, 6, 7], [-0.1, -0.2, -0.3])), 0.01, "answered differently: answer 0 of 1"),
        (answers(([5, 6, 7, 8], [-0.1, float("nan"), -0.3, -0.4])), 0.01, "answered differently: answer 0 of 1"),
        (answers(LONG, LONG), 0.01, "gave 1 and 2 answers"),
    ],
)
def test_answers_may_part_where_two_tokens_are_as_probable(
    other: list[tuple[list[int], list[float]]], atol: float, says: str
) -> None:
    found = same_answers(atol=atol)({"a": answers(LONG), "b": other})
    assert found == (f"arms 'a' and 'b' {says}" if says else "")


@pytest.mark.parametrize("output", [[], [[5, 6]], [([5], [-0.1, -0.2])], 3, [("a", "b")]])
def test_what_is_no_answer_is_a_usage_error(output: object) -> None:
    with pytest.raises(pytest.UsageError, match=r"return \[\(token_ids, logprobs\), ...\] from every arm"):
        same_answers()({"a": output, "b": copy.copy(output)})


def test_an_agreement_on_answers_says_what_it_allows() -> None:
    assert (repr(same_answers()), repr(same_answers(atol=0.01))) == ("same_answers()", "same_answers(atol=0.01)")
