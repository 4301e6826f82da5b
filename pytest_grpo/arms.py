"""Measured arms: a test compares their quantities in plain assertions.

    compact, full = grpo_arms(agree=same_tokens, compact=run_compact, full=run_full)
    assert compact.tokens_per_second >= 1.30 * full.tokens_per_second

Nothing is measured until two quantities are compared. The comparison then measures pairs until they decide.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

import pytest

from pytest_grpo.settings.thresholds import Threshold
from pytest_grpo.types import Kind, is_count

Bounds = tuple[float, float]
IN_TEST = "the test"
"""The source of a threshold that an assertion writes itself."""
_SIGNS: dict[Kind, str] = {"at_least": ">=", "at_most": "<=", "equals": "=="}


class Comparison(Protocol):
    """Measures arms together and decides on two of their quantities (``gate.comparison.PairedComparison``)."""

    @property
    def explanation(self) -> list[str]:
        """What the last comparison found, for the assertion's message."""
        ...

    def decide(self, left: Quantity, right: Quantity, threshold: Threshold) -> bool:
        """Whether the ratio of the two, without their factors, does not fail ``threshold``."""
        ...

    def count(self, left: Quantity, right: Quantity | float, threshold: Threshold, *, is_strict: bool = False) -> bool:
        """As ``decide``, exactly. With ``is_strict`` the threshold's edge fails."""
        ...

    def report(self, quantity: Quantity) -> None:
        """Measure ``quantity`` where two versions are compared, and only there."""
        ...


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
        return is_count(self.metric)

    def report(self) -> None:
        """Give this quantity a row where two versions are compared; without another version it costs nothing.

        For a test that holds its arms to exact counts only: ``steps.seconds.report()``.
        """
        if self.is_count:
            raise pytest.UsageError(f"{self!r}.report(): counts have their rows anyway; drop it")
        self.comparison.report(self)

    def __mul__(self, factor: float | Threshold) -> Quantity:
        if isinstance(factor, Threshold):
            if factor.kind == "within":
                raise pytest.UsageError(f"threshold {factor.name} is a band; write approx_ratio(..., within=threshold)")
            if self.threshold is not None:
                raise pytest.UsageError(f"{self!r} times {factor.name}: one named threshold is enough; drop the other")
            return replace(self, factor=self.factor * factor.bound, threshold=factor)
        if not (isinstance(factor, (int, float)) and math.isfinite(factor) and factor > 0):
            raise pytest.UsageError(f"{self!r} times {factor!r}: allowed are numbers above zero, e.g. 1.30 * {self!r}")
        return replace(self, factor=self.factor * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Quantity:
        if not (isinstance(divisor, (int, float)) and math.isfinite(divisor) and divisor > 0):
            raise pytest.UsageError(f"{self!r} / {divisor!r}: allowed are numbers above zero, e.g. {self!r} / 2")
        return replace(self, factor=self.factor / divisor)

    def __ge__(self, other: Quantity | float) -> bool:
        __tracebackhide__ = True
        return self._compare(other, "at_least")

    def __le__(self, other: Quantity | float) -> bool:
        __tracebackhide__ = True
        return self._compare(other, "at_most")

    def __gt__(self, other: Quantity | float) -> bool:
        __tracebackhide__ = True
        return self._compare(other, "at_least", is_strict=True)

    def __lt__(self, other: Quantity | float) -> bool:
        __tracebackhide__ = True
        return self._compare(other, "at_most", is_strict=True)

    def __eq__(self, other: object) -> bool:
        __tracebackhide__ = True
        if isinstance(other, ApproxRatio):
            return self._judge(other.of, other.threshold_for(self))
        if self.is_count and isinstance(other, (Quantity, numbers.Real)):
            return self._compare(other, "equals")
        raise pytest.UsageError(
            f"{self!r} == {other!r}: measured values are never equal; write == approx_ratio(other, within=(0.67, 1.5))"
        )

    def __ne__(self, other: object) -> NoReturn:
        raise pytest.UsageError(f"{self!r} != {other!r}: no threshold can ask for that; write ==, >= or <=")

    def __bool__(self) -> NoReturn:
        raise pytest.UsageError(
            f"{self!r} alone is neither true nor false; compare it, e.g. assert {self!r} "
            + (">= 1" if self.is_count else f"<= 1.1 * other.{self.metric}")
        )

    def _compare(self, other: Quantity | numbers.Real | float, kind: Kind, *, is_strict: bool = False) -> bool:
        __tracebackhide__ = True
        if isinstance(other, Quantity):
            return self._judge(other, _threshold_of(self, other, kind), is_strict=is_strict)
        if not self.is_count:
            raise pytest.UsageError(
                f"{self!r} against {other!r}: an absolute time depends on the machine; compare it with another arm"
            )
        if not (isinstance(other, numbers.Real) and math.isfinite(other)):
            raise pytest.UsageError(f"{self!r} against {other!r}: allowed are finite numbers and counts of other arms")
        return self.comparison.count(self, float(other), _threshold_of(self, None, kind), is_strict=is_strict)

    def _judge(self, other: Quantity, threshold: Threshold, *, is_strict: bool = False) -> bool:
        __tracebackhide__ = True
        _check_pair(self, other)
        if self.is_count:
            return self.comparison.count(self, other, threshold, is_strict=is_strict)
        return self.comparison.decide(self, other, threshold)

    def __repr__(self) -> str:
        scale = "" if self.factor == 1 else f"{self.factor:.4g} * "
        return f"{scale}{self.arm}.{self.metric}"


def _check_pair(left: Quantity, right: Quantity) -> None:
    """Raises pytest.UsageError when the ratio of ``left`` to ``right`` says nothing."""
    if left.comparison is not right.comparison:
        raise pytest.UsageError(
            f"{left!r} against {right!r}: not measured in pairs; pass all arms to one grpo_arms(agree=..., a=a, b=b)"
        )
    if (left.arm, left.metric) == (right.arm, right.metric):
        raise pytest.UsageError(f"{left!r} against {right!r}: one and the same quantity; compare it with another")
    if left.is_count != right.is_count:
        count, measured = (left, right) if left.is_count else (right, left)
        raise pytest.UsageError(
            f"{left!r} against {right!r}: {count.metric} is an exact count, {measured.metric} is measured; "
            "compare like with like"
        )


def _threshold_of(left: Quantity, right: Quantity | None, kind: Kind) -> Threshold:
    """What ``left >= right`` (``<=``, ``==``) asks of the ratio left over right, both without their factors.

    Without ``right``, ``left`` is compared with a plain number.
    """
    named = left.threshold if right is None or right.threshold is None else right.threshold
    bound = (1.0 if right is None else right.factor) / left.factor
    low, high = -math.inf if kind == "at_most" else bound, math.inf if kind == "at_least" else bound
    if named is None:
        return Threshold(name_of(left, right), None, kind, low, high, source=IN_TEST)
    if named.kind != kind or left.threshold is not None:
        raise pytest.UsageError(f"threshold {named.name} is {named}; write left {_SIGNS[named.kind]} threshold * right")
    return replace(named, low=low, high=high)


def name_of(left: Quantity, right: Quantity | None) -> str:
    """The name of a comparison in reports when it has no named threshold.

    Several counts of a test are compared with numbers and with each other, so their names have the arms.
    """
    if right is None:
        return f"{left.arm}.{left.metric}"
    if left.metric != right.metric:
        return (
            f"{left.arm}.{left.metric}/{right.arm}.{right.metric}" if left.is_count else f"{left.metric}/{right.metric}"
        )
    return f"{left.arm}/{right.arm}.{left.metric}" if left.is_count else left.metric


@dataclass(frozen=True, slots=True)
class ApproxRatio:
    """The right side of ``a == approx_ratio(b, within=(low, high))``."""

    of: Quantity
    within: Bounds | Threshold

    def threshold_for(self, left: Quantity) -> Threshold:
        """The threshold that ``left`` over ``of``, both without their factors, is held against."""
        for side in (left, self.of):
            named = side.threshold
            if named is not None:
                raise pytest.UsageError(
                    f"threshold {named.name} is {named}, which cannot scale a side of approx_ratio(); use >= or <="
                )
        scale = self.of.factor / left.factor
        if isinstance(self.within, Threshold):
            return replace(self.within, low=self.within.low * scale, high=self.within.high * scale)
        low, high = (bound * scale for bound in self.within)
        return Threshold(name_of(left, self.of), None, "within", low, high, source=IN_TEST)

    def __repr__(self) -> str:
        return f"{self.of!r} times {self.within}"


def approx_ratio(of: Quantity, *, within: Bounds | Threshold) -> ApproxRatio:
    """About ``of``: the ratio of the left side to ``of`` lies in ``within``, both edges included.

    To pass, the whole interval of the ratio must lie inside: "not significantly different" proves no equivalence.

    Raises:
        pytest.UsageError: ``of`` is no quantity of an arm, or ``within`` is not a band of positive numbers.
    """
    if not isinstance(of, Quantity):
        raise pytest.UsageError(
            f"approx_ratio({of!r}): allowed is a quantity of an arm, e.g. approx_ratio(b.seconds, ...)"
        )
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
