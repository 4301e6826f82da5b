"""Numbers of events in columns, and what is drawn of them: at most some hundred points, however long the run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

MAX_POINTS = 240
"""What a chart of some hundred pixels can show."""
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Points:
    """A line in a chart. Where several events share a point: their mean, least and greatest, each [P]."""

    x: Float64
    mean: Float64
    low: Float64
    high: Float64

    def as_json(self) -> dict[str, list[float | None]]:
        """``low`` and ``high`` are left out where every point is one event."""
        lists = {"x": rounded(self.x), "y": rounded(self.mean)}
        if not np.array_equal(self.low, self.high, equal_nan=True):
            lists |= {"low": rounded(self.low), "high": rounded(self.high)}
        return lists


class Table:
    """The events of one kind: a column of numbers per field, NaN where an event has none."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = tuple(fields)
        self._columns = {field: np.empty(256) for field in fields}
        self._num_rows = 0

    def extend(self, records: Sequence[Mapping[str, Any]]) -> None:
        end = self._num_rows + len(records)
        for field, values in zip(self._fields, _columns_of(records, self._fields), strict=True):
            column = self._columns[field]
            if end > len(column):
                column = np.concatenate(
                    [column[: self._num_rows], np.empty(max(end, 2 * len(column)) - self._num_rows)]
                )
                self._columns[field] = column
            column[self._num_rows : end] = values
        self._num_rows = end

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, field: str) -> Float64:
        """The column [N], oldest event first."""
        return self._columns[field][: self._num_rows]


def _columns_of(records: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> Sequence[Float64]:
    """A column [N] for each field. All at once takes a third of the time, where every event has every field."""
    try:
        values = chain.from_iterable(map(itemgetter(*fields), records))
        table = np.fromiter(values, np.float64, len(records) * len(fields)).reshape(len(records), len(fields))
    except (KeyError, ValueError, TypeError, OverflowError):  # a null, or an event of another program
        return [numbers([record.get(field) for record in records]) for field in fields]
    table[~np.isfinite(table)] = np.nan
    return list(table.T)


def numbers(values: Sequence[Any]) -> Float64:
    """``values`` as numbers. What is none, or not finite, is NaN: events may come from any program."""
    try:
        column = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        column = np.array([_number(value) for value in values])
    if column.ndim != 1:
        column = np.full(len(values), np.nan)
    column[~np.isfinite(column)] = np.nan
    return column


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("nan")


def newest_of_each(x: Float64) -> NDArray[np.bool_]:
    """Which rows [N] count: a resumed run repeats steps, and the later of two rows is what the policy was trained with.

    Rows without a number in ``x`` count for nothing.
    """
    is_known = ~np.isnan(x)
    later = np.minimum.accumulate(np.where(is_known, x, np.inf)[::-1])[::-1]
    return is_known & (x < np.append(later[1:], np.inf))


def binned(x: Float64, y: Float64, max_points: int = MAX_POINTS) -> Points:
    """``y`` over ``x`` in at most ``max_points`` points: neighbours are taken together, in equal numbers."""
    size = -(-len(x) // max_points) or 1
    starts = np.arange(0, len(x), size)
    if size == 1 or not len(x):
        return Points(x, y, y, y)
    is_known = ~np.isnan(y)
    counts = np.add.reduceat(is_known.astype(np.float64), starts)
    with np.errstate(invalid="ignore"):
        mean = np.add.reduceat(np.where(is_known, y, 0.0), starts) / counts
    ends = np.append(starts[1:], len(x)) - 1
    return Points(x[ends], mean, np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts))


def rounded(values: Float64) -> list[float | None]:
    """For JSON, which has no NaN. Five digits are more than a chart shows."""
    return [None if value != value else float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
