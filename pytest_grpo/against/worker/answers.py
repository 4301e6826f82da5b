"""Answers of two sides: as JSON on their way, and held against each other by the test's own rule where it has one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_grpo.agreement import Agreement, CloseValues, as_plain, close_values, nothing_to_check, same_tokens

RTOL, ATOL = 1e-3, 1e-4
"""Of the rule for answers that the test itself does not compare."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How two answers differ, in words; empty when they agree. ``rule`` held them against each other."""

    text: str
    rule: str


def as_json(output: object) -> Any:
    """``output`` as JSON, with arrays and tensors as lists.

    Raises:
        TypeError: it has no such form.
    """
    plain = as_plain(output)
    if plain is None or isinstance(plain, (bool, int, float, str)):
        return plain
    if dataclasses.is_dataclass(plain) and not isinstance(plain, type):
        plain = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain) if field.compare}
    if isinstance(plain, Mapping):
        return {str(key): as_json(value) for key, value in plain.items()}
    if isinstance(plain, Sequence) and not isinstance(plain, (bytes, bytearray)):
        return [as_json(value) for value in plain]
    raise TypeError(f"answers of type {type(plain).__name__} cannot be sent")


def difference(arm: str, own: Mapping[str, object], other: object, agree: Agreement, name: str) -> Difference:
    """How the answer of ``arm`` differs from ``other``, that of the side ``name``. ``own`` has those of all own arms.

    ``agree`` decides. One that the test has written may ask for the arms by name, so it sees the own answers, with
    that of ``arm`` replaced. Where the test compares no answers, numbers may differ by ``RTOL``, other values not.
    """
    mine = as_json(own[arm])
    pair = {"here": mine, name: other}
    if agree is nothing_to_check:
        if _has_fractions(mine) and _has_fractions(other):
            return Difference(close_values(rtol=RTOL, atol=ATOL)(pair), f"values within {RTOL:g}")
        return Difference(same_tokens(pair), "equal values")
    if agree is same_tokens:
        return Difference(agree(pair), "agree=same_tokens")
    if isinstance(agree, CloseValues):
        return Difference(agree(pair), f"agree={agree!r}")
    return Difference(agree({**own, arm: other}), "the test's own agree")


def _has_fractions(value: object) -> bool:
    """Whether it is a number with a fraction, or has such numbers among others. Token ids have none."""
    numbers = list(_flat(value))
    return all(isinstance(each, (int, float)) for each in numbers) and any(isinstance(each, float) for each in numbers)


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value
