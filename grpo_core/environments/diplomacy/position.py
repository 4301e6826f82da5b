"""A position of the game as plain data, with the parts of its phase's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PhaseKind = Literal["movement", "retreat", "adjustment"]

_KINDS: dict[str, PhaseKind] = {"M": "movement", "R": "retreat", "A": "adjustment"}
_SEASONS = {"S": "spring", "F": "fall", "W": "winter"}


@dataclass(frozen=True, slots=True)
class Position:
    """Who stands where, who owns what. Every mapping has all seven powers as keys; every tuple is sorted."""

    phase: str  # as the engine names it: S1901M
    units: Mapping[str, tuple[str, ...]]  # "A PAR", "F STP/SC"; dislodged units are not among them
    centers: Mapping[str, tuple[str, ...]]
    retreats: Mapping[str, Mapping[str, tuple[str, ...]]]  # dislodged unit -> where it may go
    builds: Mapping[str, int]  # units to build, or to remove when negative

    @property
    def kind(self) -> PhaseKind:
        return _KINDS[self.phase[-1]]

    @property
    def season(self) -> str:
        return _SEASONS[self.phase[0]]

    @property
    def year(self) -> int:
        return int(self.phase[1:-1])
