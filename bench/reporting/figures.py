"""The published numbers of a benchmark: medians with order-statistic intervals, and the tables and files they go to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo_core.home import write_atomic, write_json
from pytest_grpo.measuring.statistics.sign_test import interval


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of ``n`` values with an interval for the true one, of 95 % confidence from six values on."""

    median: float
    low: float
    high: float
    n: int
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], unit: str, **wanted: float) -> Figure:
        """Raises ValueError when there are no values, or one is not finite and above zero."""
        found = interval(values)
        return cls(found.median, found.low, found.high, found.num_pairs, unit, **wanted)

    @property
    def reached(self) -> str:
        """``yes`` or ``no``: does the median meet the bounds? Empty without bounds."""
        if self.at_least is None and self.at_most is None:
            return ""
        is_low = self.at_least is not None and self.median < self.at_least
        is_high = self.at_most is not None and self.median > self.at_most
        return "no" if is_low or is_high else "yes"

    @property
    def wanted(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:.3g}" if self.at_most is not None else ""

    def as_json(self) -> dict[str, object]:
        return {"median": self.median, "low": self.low, "high": self.high, "n": self.n, "unit": self.unit}

    def __str__(self) -> str:
        return f"{_short(self.median)} [{_short(self.low)}, {_short(self.high)}]"


@dataclass(frozen=True, slots=True)
class Report:
    """What one part of the benchmark found: lines of Markdown, and figures under their keys."""

    lines: tuple[str, ...]
    figures: Mapping[str, Figure]


def publish(reports: Sequence[Report], markdown: Path | None, json: Path | None) -> None:
    """Print all lines, and write them and all figures to the files that were asked for."""
    text = "\n\n".join("\n".join(report.lines) for report in reports if report.lines) + "\n"
    print(text, end="")
    if markdown is not None:
        write_atomic(markdown, text.encode())
    if json is not None:
        write_json(json, {key: figure.as_json() for report in reports for key, figure in report.figures.items()})


def figure_table(figures: Mapping[str, Figure]) -> Iterator[str]:
    yield from table_head("figure", "median and interval", "n", "unit", "asked for", "reached")
    for key, figure in figures.items():
        yield row(f"`{key}`", figure, figure.n, figure.unit, figure.wanted, figure.reached)


def table_head(*names: str) -> Iterator[str]:
    yield row(*names)
    yield "|---" * len(names) + "|"


def table(names: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    return [*table_head(*map(str, names)), *(row(*cells) for cells in rows)]


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _short(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
