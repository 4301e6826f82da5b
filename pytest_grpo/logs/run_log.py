"""A run as a table: steps by quantities, whichever log it was read from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import pytest

from pytest_grpo.logs.records import Reading, Record
from pytest_grpo.logs.vocabulary.quantities import HEADLINES, STEP, TOKENS, Quantity
from pytest_grpo.logs.vocabulary.vocabulary import Vocabulary

MAX_SHOWN = 8
"""Names or steps in a message; the rest is counted."""


@dataclass(frozen=True, slots=True)
class RunLog:
    """``steps`` increase. Each column has a value per step, NaN where the log has none.

    ``starts`` are the first steps of a process: of the run, and after each resume.
    """

    name: str
    format: str
    stack: str
    steps: tuple[int, ...]
    columns: Mapping[Quantity, tuple[float, ...]]
    starts: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def headlines(self) -> tuple[Quantity, ...]:
        return tuple(quantity for quantity in HEADLINES if quantity in self.columns)

    @property
    def parts(self) -> tuple[Quantity, ...]:
        return tuple(quantity for quantity in self.columns if quantity.is_part)


@dataclass
class _Steps:
    """The values that are wanted by step, the later one in place of an earlier one."""

    values: dict[int, dict[str, float]]
    starts: list[int]
    repeated: set[int]
    is_ordered: bool = True

    @classmethod
    def of(cls, records: Sequence[Record], wanted: Set[str]) -> _Steps:
        found = cls({}, [], set())
        newest, was_repeated = -math.inf, False
        for record in records:
            values = {name: value for name, value in record.values.items() if name in wanted}
            if not values:
                continue
            is_new = record.step not in found.values
            known = found.values.setdefault(record.step, {})
            is_repeated = not known.keys().isdisjoint(values)
            if is_repeated:
                found.repeated.add(record.step)
            elif is_new and record.step < newest:
                found.is_ordered = False
            if record.is_start or (is_repeated and not was_repeated):
                found.starts.append(record.step)
            known.update(values)
            newest, was_repeated = max(newest, record.step), is_repeated
        return found

    def notes(self) -> list[str]:
        notes = []
        if self.repeated:
            first, last = min(self.repeated), max(self.repeated)
            notes.append(f"{_count(len(self.repeated), 'step')} logged again ({first} to {last}): the later ones count")
        if not self.is_ordered:
            notes.append("steps are not in order: they were sorted")
        return notes


def assemble(name: str, format: str, vocabulary: Vocabulary, reading: Reading) -> RunLog:
    """The run that ``reading`` holds under the names of ``vocabulary``.

    Raises:
        pytest.UsageError: it holds no step, or nothing that is judged.
    """
    if not reading.records:
        raise pytest.UsageError(f"{name}: no training step in it, read as {format}; name another file, or --format")
    logged = {key for record in reading.records for key in record.values}
    keys = {entry: key for entry in vocabulary.entries if (key := entry.name_in(logged)) is not None}
    if all(entry.quantity.is_part for entry in keys):
        raise pytest.UsageError(
            f"{name}: nothing in it that is judged; with the names of {vocabulary.stack} that is "
            f"{', '.join(entry.names[0] for entry in vocabulary.entries if not entry.quantity.is_part)}; {_has(logged)}"
        )
    totals = next((key for key in vocabulary.total_tokens if key in logged), None)
    found = _Steps.of(reading.records, {*keys.values(), *([] if totals is None else [totals])})
    steps = sorted(found.values)
    rows = [found.values[step] for step in steps]
    starts = tuple(sorted({steps[0], *found.starts}))
    notes = [*reading.notes, *found.notes()]
    columns: dict[Quantity, tuple[float, ...]] = {}
    for entry, key in keys.items():
        columns[entry.quantity], problem = _column(entry.quantity, [row.get(key) for row in rows], entry.scale)
        notes += [f"{entry.quantity.name}: {problem}"] if problem else []
    if totals is not None and STEP in columns:
        columns[TOKENS] = _rates(steps, [row.get(totals, math.nan) for row in rows], columns[STEP], starts)
    columns = {quantity: column for quantity, column in columns.items() if not all(map(math.isnan, column))}
    if STEP not in columns:
        notes.append(f"{STEP.name}: not in this log, so neither stalls nor shares are judged")
    return RunLog(name, format, vocabulary.stack, tuple(steps), columns, starts, tuple(notes))


def _column(quantity: Quantity, values: Sequence[float | None], scale: float) -> tuple[tuple[float, ...], str]:
    """The values in the quantity's unit, and what was left out of them."""
    column, num_none, num_low = [], 0, 0
    for value in values:
        kept = math.nan
        if value is not None and not math.isfinite(value):
            num_none += 1
        elif value is not None and quantity.is_ratio and (value < 0 or (value == 0 and not quantity.is_part)):
            num_low += 1
        elif value is not None:
            kept = value * scale
        column.append(kept)
    problems = [f"{_count(num_none, 'value')} NaN or infinite"] if num_none else []
    problems += [f"{_count(num_low, 'value')} not above 0"] if num_low else []
    return tuple(column), f"left out: {', '.join(problems)}" if problems else ""


def _rates(
    steps: Sequence[int], totals: Sequence[float], step_s: Sequence[float], starts: Sequence[int]
) -> tuple[float, ...]:
    """Tokens per second of step time, from tokens that count up. A record of several steps has the mean step time."""
    rates = [math.nan] * len(steps)
    for place in range(1, len(steps)):
        num_tokens = totals[place] - totals[place - 1]
        if steps[place] not in starts and num_tokens > 0:
            rates[place] = num_tokens / ((steps[place] - steps[place - 1]) * step_s[place])
    return tuple(rates)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _has(logged: set[str]) -> str:
    if not logged:
        return "it has no numbers"
    shown = sorted(logged)[:MAX_SHOWN]
    more = f" and {len(logged) - len(shown)} more" if len(logged) > len(shown) else ""
    return f"it has {', '.join(shown)}{more}"
