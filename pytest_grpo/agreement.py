"""Correctness checks for arms: a faster arm with a wrong output fails, whatever the clock says.

An agreement takes the outputs of all arms by name. It returns what differs, as one line, or an empty string.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Agreement = Callable[[Mapping[str, object]], str]
"""What differs between the outputs, in one line; empty when they agree."""


def same_tokens(outputs: Mapping[str, object]) -> str:
    """The outputs are equal: token ids under greedy decoding or equal seeds, or any other values."""
    (first, expected), *others = outputs.items()
    for name, output in others:
        if output != expected:
            return f"arms {first!r} and {name!r} answered differently{_first_difference(expected, output)}"
    return ""


def close_values(*, rtol: float = 0.0, atol: float = 0.0) -> Agreement:
    """The outputs are numbers, or (nested) sequences of them, that differ by ``atol + rtol * |first|`` at most: e.g.
    log-probabilities in nats, losses, gradient norms."""

    def agree(outputs: Mapping[str, object]) -> str:
        (first, expected), *others = ((name, list(_flat(output))) for name, output in outputs.items())
        for name, output in others:
            if len(output) != len(expected):
                return f"arms {first!r} and {name!r} gave {len(expected)} and {len(output)} values"
            for a, b in zip(expected, output, strict=True):
                if not abs(a - b) <= atol + rtol * abs(a):  # also true for NaN
                    return f"arms {first!r} and {name!r} differ: {a:.6g} and {b:.6g}"
        return ""

    return agree


def nothing_to_check(outputs: Mapping[str, object]) -> str:
    """For arms without a comparable output. Say in the test why there is none."""
    return ""


def _flat(output: object) -> Iterator[float]:
    """The numbers in nested sequences, ragged ones too."""
    if isinstance(output, Iterable):
        for part in output:
            yield from _flat(part)
    else:
        assert isinstance(output, numbers.Real), f"{output!r} is not a number"
        yield float(output)


def _first_difference(expected: object, output: object) -> str:
    if not isinstance(expected, Sequence) or not isinstance(output, Sequence):
        return ""
    if len(expected) != len(output):
        return f": {len(expected)} and {len(output)} answers"
    at = next(place for place, pair in enumerate(zip(expected, output, strict=True)) if pair[0] != pair[1])
    return f": answer {at} of {len(expected)}"
