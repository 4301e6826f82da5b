"""A count, and who counted."""

from __future__ import annotations

from dataclasses import dataclass

AS_TOLD = "as told by the system"


@dataclass(frozen=True, slots=True)
class Count:
    """``note`` is empty for a count that was measured, else ``AS_TOLD``."""

    value: int
    note: str = ""

    @classmethod
    def of(cls, told: int, seen: int | None) -> Count:
        """What the system tells, and what was seen; None where nothing could be seen. The larger number counts: a
        watcher can miss some, and never sees what is not there."""
        if seen is None:
            return cls(told, AS_TOLD)
        return cls(max(told, seen))
