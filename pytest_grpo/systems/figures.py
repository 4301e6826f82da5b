"""Figures that a system tells are numbers: a tensor or a text among them is said at once, where it was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_figures(told: DataclassInstance, *, beside: Sequence[str] = ()) -> None:
    """Check all fields of ``told`` but those ``beside``. NaN is a number: what it means, a gate says.

    Raises:
        TypeError: a field is no number, or a count is no whole one.
    """
    for field in fields(told):
        value = getattr(told, field.name)
        is_count = field.name.startswith("num_")
        if field.name not in beside and not isinstance(value, Integral if is_count else Real):
            from grpo_core.errors import shown

            kind = "a whole number" if is_count else "a number"
            raise TypeError(f"{type(told).__name__}.{field.name} is {shown(value)}: give {kind} of Python or numpy")
