"""Correctness checks for arms: a faster arm with a wrong output fails, whatever the clock says.

An agreement takes the outputs of all arms by name. It returns what differs, as one line, or an empty string.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

Agreement = Callable[[Mapping[str, object]], str]
"""What differs between the outputs, in one line; empty when they agree."""


def same_tokens(outputs: Mapping[str, object]) -> str:
    """The outputs are equal: token ids under greedy decoding or equal seeds, or any other values.

    Arrays and tensors equal lists of the same values. A NaN equals nothing, not even another NaN.

    Raises:
        pytest.UsageError: an arm returned no output.
    """
    _check_returned("same_tokens", outputs)
    (first, expected), *others = outputs.items()
    for name, output in others:
        if not _equal(expected, output):
            return f"arms {first!r} and {name!r} answered differently{_first_difference(expected, output)}"
    return ""


@dataclasses.dataclass(frozen=True, slots=True)
class CloseValues:
    """The agreement that ``close_values`` makes."""

    rtol: float
    atol: float

    def __call__(self, outputs: Mapping[str, object]) -> str:
        _check_returned("close_values", outputs)
        (first, expected), *others = outputs.items()
        for name, output in others:
            problem = _not_close(expected, output, self.rtol, self.atol)
            if problem:
                return f"arms {first!r} and {name!r} {problem}"
        return ""

    def __repr__(self) -> str:
        bounds = {"rtol": self.rtol, "atol": self.atol}
        return f"close_values({', '.join(f'{name}={value:g}' for name, value in bounds.items() if value)})"


def close_values(*, rtol: float = 0.0, atol: float = 0.0) -> Agreement:
    """The outputs are numbers, or (nested) sequences, arrays or tensors of them, that have the same shape and differ by
    ``atol + rtol * |first|`` at most: e.g. log-probabilities in nats, losses, gradient norms.

    A NaN is close to nothing, an infinite value only to its equal. The agreement raises pytest.UsageError when an arm
    returned no output, or one that is not numeric.
    """
    return CloseValues(rtol, atol)


@dataclasses.dataclass(frozen=True, slots=True)
class SameAnswers:
    """The agreement that ``same_answers`` makes."""

    atol: float

    def __call__(self, outputs: Mapping[str, object]) -> str:
        _check_returned("same_answers", outputs)
        (first, expected), *others = ((name, _answers(output)) for name, output in outputs.items())
        for name, answers in others:
            if len(answers) != len(expected):
                return f"arms {first!r} and {name!r} gave {len(expected)} and {len(answers)} answers"
            num_same = 0
            for place, (one, other) in enumerate(zip(expected, answers, strict=True)):
                shared = _num_shared(one, other, self.atol)
                if shared is None:
                    return f"arms {first!r} and {name!r} answered differently: answer {place} of {len(expected)}"
                num_same += shared
            num_tokens = sum(len(ids) for ids, _ in expected)
            if 2 * num_same < num_tokens:
                return f"arms {first!r} and {name!r} share {num_same} of {num_tokens} tokens; half of them must be"
        return ""

    def __repr__(self) -> str:
        return f"same_answers(atol={self.atol:g})" if self.atol else "same_answers()"


def same_answers(*, atol: float = 0.0) -> Agreement:
    """The outputs are answers under greedy decoding: pairs of token ids and their log-probabilities, in nats.

    Without ``atol`` the ids are equal. With it they may part where two tokens are equally probable to within ``atol``:
    up to there the log-probabilities of both arms differ by ``atol`` at most, and what follows is not compared. Half of
    all tokens must be. So two arms that round differently agree, and two that compute something else do not.
    """
    return SameAnswers(atol)


_Answer = tuple[list[int], list[float]]


def _answers(output: object) -> list[_Answer]:
    """The ids and log-probabilities of each answer."""
    pairs = _listed(output, of_any=True)
    try:
        answers = [(list(map(int, as_plain(ids))), list(map(float, as_plain(logprobs)))) for ids, logprobs in pairs]
    except (TypeError, ValueError):
        answers = []
    if not answers or any(len(ids) != len(logprobs) for ids, logprobs in answers):
        raise pytest.UsageError(
            "agree=same_answers: an output is not a list of answers; return [(token_ids, logprobs), ...] from every arm"
        )
    return answers


def _num_shared(one: _Answer, other: _Answer, atol: float) -> int | None:
    """Tokens before two answers part, or all of them; None where they part too early, or differ before."""
    if atol == 0:
        return len(one[0]) if one[0] == other[0] else None
    num = 0
    for a, b, left, right in zip(one[0], other[0], one[1], other[1], strict=False):
        if _far_apart(left, right, 0.0, atol):
            return None
        if a != b:
            return num
        num += 1
    return num if len(one[0]) == len(other[0]) else None


def nothing_to_check(outputs: Mapping[str, object]) -> str:
    """For arms without a comparable output. Say in the test why there is none."""
    return ""


def _check_returned(agreement: str, outputs: Mapping[str, object]) -> None:
    """Two outputs that are not there are equal, and so are two that are one buffer: they prove nothing."""
    missing = [repr(name) for name, output in outputs.items() if output is None]
    if missing:
        arms = "no arm returns an output" if len(missing) == len(outputs) else f"no output of {', '.join(missing)}"
        raise pytest.UsageError(
            f"agree={agreement}: {arms}; return Sample(output=...) from every arm, or write agree=nothing_to_check"
        )
    for (first, output), (second, other) in itertools.combinations(outputs.items(), 2):
        if output is other and _can_change(output):
            raise pytest.UsageError(
                f"agree={agreement}: arms {first!r} and {second!r} return one and the same {type(output).__name__}, "
                "which the later one may have overwritten; return a copy"
            )


def _can_change(output: object) -> bool:
    torch = sys.modules.get("torch")
    return (
        isinstance(output, (list, dict, set, bytearray, Iterator))
        or _is_array(output)
        or (torch is not None and isinstance(output, torch.Tensor))
    )


def _equal(expected: object, output: object) -> bool:
    if isinstance(expected, (int, float)) and isinstance(output, (int, float)):
        return expected == output  # first, because most are such
    left, right = _plain(expected), _plain(output)
    if _is_array(left) and _is_array(right) and left.dtype == right.dtype:
        return sys.modules["numpy"].array_equal(left, right)
    left, right = _listed(left), _listed(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if dataclasses.is_dataclass(left) and type(left) is type(right):
        fields = [field.name for field in dataclasses.fields(left) if field.compare]
        return all(_equal(getattr(left, name), getattr(right, name)) for name in fields)
    return bool(left == right)


def _first_difference(expected: object, output: object) -> str:
    left, right = _listed(_plain(expected)), _listed(_plain(output))
    if not isinstance(left, list) or not isinstance(right, list):
        return ""
    if len(left) != len(right):
        return f": {len(left)} and {len(right)} answers"
    unequal = (place for place, pair in enumerate(zip(left, right, strict=True)) if not _equal(*pair))
    return f": answer {next(unequal)} of {len(left)}" if left else ": other shapes"


def _not_close(expected: object, output: object, rtol: float, atol: float) -> str:
    """What differs, as a verb and its objects; empty when nothing does."""
    if isinstance(expected, (int, float)) and isinstance(output, (int, float)):
        return _far_apart(expected, output, rtol, atol)
    left, right = _plain(expected), _plain(output)
    if _is_array(left) and _is_array(right):
        return _arrays_not_close(left, right, rtol, atol)
    left, right = _listed(left, of_any=True), _listed(right, of_any=True)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        if left.keys() != right.keys():
            return f"gave the keys {list(left)} and {list(right)}"
        left, right = list(left.values()), [right[key] for key in left]
    if isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            return f"gave {len(left)} and {len(right)} values"
        found = (_not_close(a, b, rtol, atol) for a, b in zip(left, right, strict=True))
        return next(filter(None, found), "")
    if isinstance(left, (list, Mapping)) or isinstance(right, (list, Mapping)):
        return "gave values of other shapes"
    return _far_apart(_number(left), _number(right), rtol, atol)


def _far_apart(a: complex, b: complex, rtol: float, atol: float) -> str:
    is_close = a == b or (math.isfinite(abs(a)) and abs(a - b) <= atol + rtol * abs(a))  # neither for NaN
    return "" if is_close else f"differ: {a:.6g} and {b:.6g}"


def _arrays_not_close(left: Any, right: Any, rtol: float, atol: float) -> str:
    numpy = sys.modules["numpy"]
    if left.shape != right.shape:
        return f"gave the shapes {left.shape} and {right.shape}"
    kinds = {left.dtype.kind, right.dtype.kind}
    if not kinds <= set("biufc"):
        return _not_close(left.ravel().tolist(), right.ravel().tolist(), rtol, atol)
    left, right = (values.ravel().astype(complex if "c" in kinds else float) for values in (left, right))
    with numpy.errstate(invalid="ignore"):
        is_close = (left == right) | (numpy.isfinite(left) & (abs(left - right) <= atol + rtol * abs(left)))
    (far,) = numpy.nonzero(~is_close)
    return _far_apart(left[far[0]].item(), right[far[0]].item(), rtol, atol) if far.size else ""


def as_plain(output: Any) -> Any:
    """A tensor or an array as a list, a NumPy scalar as Python's; anything else as it is."""
    plain = _plain(output)
    return plain.tolist() if _is_array(plain) else plain


def _plain(output: Any) -> Any:
    """A tensor as an array, a NumPy scalar as Python's; anything else as it is."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(output, torch.Tensor):
        dense = output if output.layout is torch.strided else output.to_dense()
        has_numpy_type = not dense.is_floating_point() or dense.dtype in (torch.float32, torch.float64)
        return (dense if has_numpy_type else dense.float()).numpy(force=True)  # bfloat16 to float32 is exact
    if numpy is not None and isinstance(output, numpy.generic):
        return output.item()
    return output


def _is_array(output: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(output, numpy.ndarray)


def _listed(output: Any, *, of_any: bool = False) -> Any:
    """An array or a sequence as a list, with ``of_any`` another iterable, too; anything else as it is."""
    if _is_array(output):
        return output.tolist()
    if isinstance(output, (str, bytes, Mapping)):
        return output
    return list(output) if isinstance(output, Iterable if of_any else Sequence) else output


def _number(value: object) -> Any:
    """``value``, which must be one."""
    if not isinstance(value, numbers.Complex):
        raise pytest.UsageError(
            f"agree=close_values: {value!r} is not a number; return numbers, arrays or tensors, or agree=same_tokens"
        )
    return value
