"""Numbers as a table shows them: with their unit, their interval and, for a change, their sign."""

from __future__ import annotations

import math

from pytest_grpo.logs.findings.blocks import Interval
from pytest_grpo.logs.vocabulary.quantities import Quantity
from pytest_grpo.settings.thresholds import format_number

_ROUNDING = 1e-9
_BINARY = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


def value_of(quantity: Quantity, interval: Interval | None) -> str:
    """``1.92 s [1.9, 1.95]``; memory in the unit that suits it."""
    if interval is None:
        return "-"
    unit, size = _unit(quantity, interval.value)
    value, low, high = (format_number(_rounded(each / size)) for each in (interval.value, interval.low, interval.high))
    shown = f"{value} {unit}".rstrip()
    return f"{shown} [{low}, {high}]" if interval.low < interval.high else shown


def number_of(quantity: Quantity, value: float) -> str:
    """``1.92 s``."""
    if math.isnan(value):
        return "-"
    return value_of(quantity, Interval(value, math.nan, math.nan))


def change_of(quantity: Quantity, interval: Interval | None) -> str:
    """``+0.8 % [+0.2, +1.3]``; without ``%`` where a change is a difference."""
    if interval is None:
        return "-"
    value, low, high = (_signed(quantity, each) for each in (interval.value, interval.low, interval.high))
    unit = " %" if quantity.is_ratio else ""
    return f"{value}{unit} [{low}, {high}]"


def signed(quantity: Quantity, change: float) -> str:
    """``+0.8 %``."""
    return f"{_signed(quantity, change)}{' %' if quantity.is_ratio else ''}"


def share_of(interval: Interval) -> str:
    """``61.2 % [60.1, 62.3]``."""
    shown = f"{100 * interval.value:.1f} %"
    ends = "" if math.isinf(interval.high) else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return f"{shown}{ends}"


def _signed(quantity: Quantity, change: float) -> str:
    return f"{100 * change:+.1f}" if quantity.is_ratio else f"{change:+.3g}"


def _unit(quantity: Quantity, value: float) -> tuple[str, float]:
    if quantity.unit != "bytes":
        return quantity.unit, 1.0
    unit = next((unit for unit in reversed(_BINARY) if abs(value) >= (1 - _ROUNDING) * _BINARY[unit]), "KiB")
    return unit, _BINARY[unit]


def _rounded(value: float) -> float:
    """To four digits, so that 2.0000001 is shown as 2."""
    return float(f"{value:.4g}") if abs(value) < 10_000 else value
