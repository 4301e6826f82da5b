"""Legal orders as the vocabulary of an answer, and an answer as orders.

An order is a line in the engine's notation: ``A PAR - BUR``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from grpo_core.environments.diplomacy.board import province_of

WAIVE = "WAIVE"


@dataclass(frozen=True, slots=True)
class OrderChoices:
    """The fields ``choices`` and ``distinct_choices`` of an ``Observation``."""

    segments: tuple[tuple[str, ...], ...]
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class UnitOptions:
    """What the legal orders let one unit do, as codes of locations and units, each sorted."""

    unit: str
    moves: tuple[str, ...]
    convoy_moves: tuple[str, ...]
    supports: tuple[str, ...]  # units that it can help
    convoys: tuple[str, ...]  # armies that it can carry
    retreats: tuple[str, ...]


def order_choices(orders_at: Mapping[str, Iterable[str]], num_builds: int = 0) -> OrderChoices:
    """The choices of one power: ``orders_at`` has the legal orders of each of its locations.

    ``num_builds`` counts the units to build, or to remove when negative; 0 in movement and retreat phases, where
    each location gets one segment.
    """
    by_location = tuple(_as_lines(orders_at[location]) for location in sorted(orders_at))
    all_lines = tuple(sorted({line for lines in by_location for line in lines}))
    if num_builds < 0:
        return OrderChoices((all_lines,) * -num_builds, distinct=True)
    # As many builds as sites: a segment per site, so that no site can be named twice. With fewer builds every segment
    # offers every site. A line may then return, since WAIVE must be able to; a second build on a site is void, which
    # `accept_orders` sees to: it waives that build.
    if 0 < num_builds < len(by_location):
        return OrderChoices((all_lines,) * num_builds)
    return OrderChoices(by_location)


def _as_lines(orders: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{order}\n" for order in sorted(orders))


def parse_orders(text: str) -> list[str]:
    """The orders of an answer: its lines without blanks around them, empty ones left out."""
    return [line for line in map(str.strip, text.splitlines()) if line]


def accept_orders(text: str, choices: OrderChoices) -> tuple[list[str], int]:
    """The orders of an answer that can be given to the engine, and how many lines were refused.

    Refused are lines that are not legal, a second order for the same province, and more orders than segments. A unit
    without an accepted order holds, disbands when dislodged, and is not built.
    """
    legal = {line.rstrip("\n") for segment in choices.segments for line in segment}
    accepted: list[str] = []
    ordered: set[str] = set()
    lines = parse_orders(text)
    for line in lines:
        province = province_of(line[2:])
        if line not in legal or province in ordered or len(accepted) == len(choices.segments):
            continue
        accepted.append(line)
        if line != WAIVE:
            ordered.add(province)
    return accepted, len(lines) - len(accepted)


def unit_options(segment: Sequence[str]) -> UnitOptions:
    """What one unit can do, read from its segment of a movement or retreat phase."""
    found: dict[str, set[str]] = {"-": set(), "VIA": set(), "S": set(), "C": set(), "R": set()}
    for line in segment:
        kind, _, rest = line[2:].strip().partition(" ")[2].partition(" ")
        if kind == "-" and rest.endswith(" VIA"):
            found["VIA"].add(rest.removesuffix(" VIA"))
        elif kind in {"S", "C"}:
            found[kind].add(rest.partition(" - ")[0])
        elif kind in {"-", "R"}:
            found[kind].add(rest)
    return UnitOptions(
        unit=" ".join(segment[0].split()[:2]),
        moves=tuple(sorted(found["-"])),
        convoy_moves=tuple(sorted(found["VIA"])),
        supports=tuple(sorted(found["S"])),
        convoys=tuple(sorted(found["C"])),
        retreats=tuple(sorted(found["R"])),
    )
