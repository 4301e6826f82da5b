"""The axis of a chart: the position of a value, and the tick labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

PADDING = 0.1
"""Free space above and below the values, as a fraction of their range."""
MIN_SPREAD = 0.02
"""The minimum relative range of an axis, so that tiny noise does not fill it."""
MAX_TICKS = 6
_STEPS = (1.0, 2.0, 2.5, 5.0)
_MANTISSAS = ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,))


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps ``low`` to ``bottom`` and ``high`` to ``top`` (pixels, downwards); values beyond are clamped."""

    low: float
    high: float
    top: float
    bottom: float
    is_log: bool

    @classmethod
    def around(cls, values: Iterable[float | None], *, top: float, bottom: float, is_log: bool) -> Scale:
        """An axis for all finite ``values``; a logarithmic axis ignores those at or below zero."""
        shown = [value for value in values if value is not None and math.isfinite(value) and (value > 0 or not is_log)]
        low, high = min(shown, default=1.0), max(shown, default=1.0)
        if is_log:
            spread = max(math.log(high / low), MIN_SPREAD)
            middle = (math.log(low) + math.log(high)) / 2
            half = spread * (0.5 + PADDING)
            return cls(math.exp(middle - half), math.exp(middle + half), top, bottom, is_log)
        spread = max(high - low, MIN_SPREAD * max(abs(low), abs(high)), 1e-9)
        half = spread * (0.5 + PADDING)
        return cls((low + high) / 2 - half, (low + high) / 2 + half, top, bottom, is_log)

    def __call__(self, value: float) -> float:
        if value <= self.low:
            return self.bottom
        if value >= self.high:
            return self.top
        share = (self._place(value) - self._place(self.low)) / (self._place(self.high) - self._place(self.low))
        return self.bottom + share * (self.top - self.bottom)

    def shows(self, value: float | None) -> bool:
        return value is not None and self.low <= value <= self.high

    @property
    def ticks(self) -> list[float]:
        """Two to six round values within the axis."""
        if not self.is_log or self.high / self.low < 4:
            return self._even_ticks()
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks: list[float] = []
        for mantissas in _MANTISSAS:
            candidates = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
            ticks = [tick for tick in candidates if self.shows(tick)]
            if len(ticks) <= MAX_TICKS:
                return ticks
        return ticks[:: math.ceil(len(ticks) / MAX_TICKS)]

    def _even_ticks(self) -> list[float]:
        rough = (self.high - self.low) / (MAX_TICKS - 1)
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next((step * magnitude for step in _STEPS if step * magnitude >= rough), 10 * magnitude)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{number * step:.12g}") for number in range(first, last + 1)]

    def _place(self, value: float) -> float:
        return math.log(value) if self.is_log else value
