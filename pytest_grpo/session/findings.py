"""What a comparison of two versions found beside its rows. The findings of a worker join those of its session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest


@dataclass(slots=True)
class Findings:
    """Each entry is kept once, in the order of its coming."""

    seen: dict[str, None] = field(default_factory=dict)
    """The metrics that were measured on both sides."""
    gone: dict[str, None] = field(default_factory=dict)
    """Tests that only the other side has."""
    problems: dict[str, None] = field(default_factory=dict)
    """Lines for the user."""

    def add(self, *, seen: Iterable[str] = (), gone: Iterable[str] = (), problems: Iterable[str] = ()) -> None:
        self.seen |= dict.fromkeys(seen)
        self.gone |= dict.fromkeys(gone)
        self.problems |= dict.fromkeys(problems)

    def as_lists(self) -> Mapping[str, list[str]]:
        """The keywords of ``add``, as JSON."""
        return {"seen": list(self.seen), "gone": list(self.gone), "problems": list(self.problems)}


FINDINGS = pytest.StashKey[Findings]()
