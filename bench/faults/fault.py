"""A planted fault: a bug that an engineer could introduce, and the verdict that must reveal it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest

Plant = Callable[[pytest.MonkeyPatch], None]
"""Patches the bug into the product. Its name and the first paragraph of its docstring describe the fault."""

WRONG_ANSWERS = "wrong answers"
"""The start of the reason of a gate that fails because its arms disagree."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``phase`` must turn red, at one of ``metrics``, and its reason must contain ``reason``."""

    phase: int
    metrics: tuple[str, ...]
    plant: Plant
    reason: str = ""

    @property
    def name(self) -> str:
        return self.plant.__name__

    @property
    def description(self) -> str:
        first, _, _ = (inspect.getdoc(self.plant) or "").partition("\n\n")
        return " ".join(first.split())
