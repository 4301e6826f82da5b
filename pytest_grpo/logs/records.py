"""What a reader finds in a log: records under the log's own names, and what was wrong with the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """Some of the numbers that a log has of ``step``; one step may have several records. NaN is a value that is none.

    ``is_start``: it is the first step of a process, so that its caches were empty.
    """

    step: int
    values: Mapping[str, float]
    is_start: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """The records in the order of the log. ``notes`` are one line each: what was left out."""

    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()
