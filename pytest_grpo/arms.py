"""Measured arms: a test compares their quantities in plain assertions.

    compact, full = grpo_arms(agree=same_tokens, compact=run_compact, full=run_full)
    assert compact.tokens_per_second >= 1.30 * full.tokens_per_second

Nothing is measured until two quantities are compared. The comparison then measures pairs until they decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import pytest

from pytest_grpo.settings.thresholds import Threshold
from pytest_grpo.types import COUNT_PREFIX, Kind

Bounds = tuple[float, float]


class Comparison(Protocol):
    """Measures arms together and decides on two of their quantities (``gate.comparison.PairedComparison``)."""

    @property
    def explanation(self) -> list[str]:
        """What the last comparison found, for the assertion's message."""
        ...

    def decide(self, left: Quantity, right: Quantity, threshold: Threshold) -> bool: ...

    def count(self, left: Quantity, right: Quantity | float, holds: Callable[[float, float], bool]) -> bool: ...


@dataclass(frozen=True, slots=True, repr=False)
class MeasuredArm:
    """One arm. Its attributes are quantities: ``seconds``, those that the arm returns, and ``<name>_per_second``."""

    name: str
    comparison: Comparison

    def __getattr__(self, metric: str) -> Quantity:
        if metric.startswith("_"):
            raise AttributeError(metric)  # copy, pickle and pytest probe for such names
        return Quantity(self.comparison, self.name, metric)

    def __repr__(self) -> str:
        return f"<arm {self.name}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Quantity:
    """A quantity of an arm, times a factor. ``threshold`` is set when the factor is a named threshold."""

    comparison: Comparison
    arm: str
    metric: str
    factor: float = 1.0
    threshold: Threshold | None = None

    @property
    def is_count(self) -> bool:
        """Whether it is exact (``num_...``): compared without statistics, also with a number."""
        return self.metric.startswith(COUNT_PREFIX)

    def __mul__(self, factor: float | Threshold) -> Quantity:
        if isinstance(factor, Threshold):
            if factor.kind == "within":
                raise pytest.UsageError(f"threshold {factor.name} is a band; write approx_ratio(..., within=threshold)")
            return replace(self, factor=self.factor * factor.bound, threshold=factor)
        if not (isinstance(factor, (int, float)) and math.isfinite(factor) and factor > 0):
            raise pytest.UsageError(f"{self!r} times {factor!r}: allowed are numbers above zero, e.g. 1.30 * {self!r}")
        return replace(self, factor=self.factor * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Quantity:
        return self * (1 / divisor)

    def __ge__(self, other: Quantity | float) -> bool:
        __tracebackhide__ = True
        return self._compare(other, "at_least", lambda mine, its: mine >= its)

    def __le__(self, other: Quantity | float) -> bool:
        __tracebackhide__ = True
        return self._compare(other, "at_most", lambda mine, its: mine <= its)

    __gt__ = __ge__
    __lt__ = __le__

    def __eq__(self, other: object) -> bool:
        __tracebackhide__ = True
        if isinstance(other, ApproxRatio):
            return self.comparison.decide(self, other.of, other.threshold_for(self))
        if self.is_count and isinstance(other, (Quantity, int, float)):
            return self.comparison.count(self, other, lambda mine, its: mine == its)
        raise pytest.UsageError(
            f"{self!r} == {other!r}: measured values are never equal; write == approx_ratio(other, within=(0.67, 1.5))"
        )

    def _compare(self, other: Quantity | float, kind: Kind, holds: Callable[[float, float], bool]) -> bool:
        __tracebackhide__ = True
        if self.is_count:
            return self.comparison.count(self, other, holds)
        if not isinstance(other, Quantity):
            raise pytest.UsageError(
                f"{self!r} against {other!r}: an absolute time depends on the machine; compare it with another arm"
            )
        return self.comparison.decide(self, other, _threshold_of(self, other, kind))

    def __repr__(self) -> str:
        scale = "" if self.factor == 1 else f"{self.factor:.4g} * "
        return f"{scale}{self.arm}.{self.metric}"


def _threshold_of(left: Quantity, right: Quantity, kind: Kind) -> Threshold:
    """What ``left >= right`` (``<=``) asks of the ratio left over right, both without their factors."""
    bound = right.factor / left.factor
    named = right.threshold or left.threshold
    if named is None:
        low, high = (bound, math.inf) if kind == "at_least" else (-math.inf, bound)
        return Threshold(name_of(left, right), None, kind, low, high, source="the test")
    if named.kind != kind or right.threshold is None:
        sign = ">=" if named.kind == "at_least" else "<="
        raise pytest.UsageError(f"threshold {named.name} is {named}; write ... {sign} threshold * ...")
    return replace(named, low=bound) if kind == "at_least" else replace(named, high=bound)


def name_of(left: Quantity, right: Quantity) -> str:
    """The name of a comparison in reports when it has no named threshold."""
    return left.metric if left.metric == right.metric else f"{left.metric}/{right.metric}"


@dataclass(frozen=True, slots=True)
class ApproxRatio:
    """The right side of ``a == approx_ratio(b, within=(low, high))``."""

    of: Quantity
    within: Bounds | Threshold

    def threshold_for(self, left: Quantity) -> Threshold:
        """The threshold that ``left`` over ``of`` is held against."""
        if isinstance(self.within, Threshold):
            return self.within
        low, high = self.within
        return Threshold(name_of(left, self.of), None, "within", low, high, source="the test")

    def __repr__(self) -> str:
        return f"{self.of!r} times {self.within}"


def approx_ratio(of: Quantity, *, within: Bounds | Threshold) -> ApproxRatio:
    """About ``of``: the ratio of the left side to ``of`` lies in ``within``, both edges included.

    To pass, the whole interval of the ratio must lie inside: "not significantly different" proves no equivalence.

    Raises:
        pytest.UsageError: ``within`` is not a band of positive numbers.
    """
    if isinstance(within, Threshold):
        if within.kind != "within":
            raise pytest.UsageError(f"threshold {within.name} is {within}, not a band; compare with >= or <=")
    elif not (len(within) == 2 and 0 < within[0] < within[1] < math.inf):
        raise pytest.UsageError(f"approx_ratio(within={within!r}): allowed is (low, high) with 0 < low < high")
    return ApproxRatio(of, within)


def explain_assertion(left: object, op: str, right: object) -> list[str] | None:
    """What the comparison ``left op right`` found; None when ``left`` is not a measured quantity."""
    if not isinstance(left, Quantity):
        return None
    return [f"{left!r} {op} {right!r}", *left.comparison.explanation]
