"""Made-up but plausible positions, from the map's data alone: text to train a tokenizer and to pretrain on.

Units wander from the standard start without fighting, take centres, are built and removed. The orders offered are
those of the rules except long convoys, so they look like the engine's without being a claim about legality.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from grpo_core.environments.diplomacy.board import (
    CENTERS,
    HOMES,
    LOCATIONS,
    POWERS,
    START_UNITS,
    coasts_of,
    moves_of,
    province_of,
)
from grpo_core.environments.diplomacy.orders import WAIVE, order_choices
from grpo_core.environments.diplomacy.position import Position

MAX_YEARS = 8
_MOVE_PROBABILITY = 0.55
_MAX_CENTERS = 17  # one more would have won


def sample_position(rng: random.Random) -> tuple[Position, str, tuple[tuple[str, ...], ...]]:
    """A position, a power that must order in it, and that power's choices, as in ``Observation.choices``."""
    while True:
        board = _Board()
        for _ in range(rng.randrange(MAX_YEARS)):
            board.play_season(rng)
            board.play_season(rng)
            board.capture_centers(rng)
            board.adjust(rng)
        kind = rng.choices("MRA", weights=(66, 10, 24))[0]
        position = board.stop(kind, rng)
        choices = {power: _choices(position, power) for power in POWERS}
        powers = [power for power in POWERS if choices[power]]
        if powers:
            power = rng.choice(powers)
            return position, power, choices[power]


def _start_units() -> dict[str, tuple[str, str]]:
    return {province_of(unit[2:]): (power, unit) for power in POWERS for unit in START_UNITS[power]}


def _start_owners() -> dict[str, str]:
    return {center: power for power in POWERS for center in HOMES[power]}


@dataclass
class _Board:
    year: int = 1901
    units: dict[str, tuple[str, str]] = field(default_factory=_start_units)  # province -> power, unit
    owners: dict[str, str] = field(default_factory=_start_owners)  # centre -> power

    def play_season(self, rng: random.Random) -> None:
        """Some units go to free provinces."""
        for province in rng.sample(sorted(self.units), len(self.units)):
            power, unit = self.units[province]
            free = [code for code in moves_of(unit) if province_of(code) not in self.units]
            if free and rng.random() < _MOVE_PROBABILITY:
                target = rng.choice(free)
                del self.units[province]
                self.units[province_of(target)] = (power, f"{unit[0]} {target}")

    def capture_centers(self, rng: random.Random) -> None:
        for center in rng.sample(CENTERS, len(CENTERS)):
            if center in self.units:
                power = self.units[center][0]
                if len(self.centers_of(power)) < _MAX_CENTERS:
                    self.owners[center] = power

    def adjust(self, rng: random.Random) -> None:
        for power in POWERS:
            for _ in range(self.num_builds(power)):
                if sites := self.build_sites(power):
                    site = rng.choice(sites)
                    self.units[site] = (power, rng.choice(_buildable(site)))
            for _ in range(-self.num_builds(power)):
                del self.units[rng.choice([province for province, (owner, _) in self.units.items() if owner == power])]
        self.year += 1

    def stop(self, kind: str, rng: random.Random) -> Position:
        """The position of a phase of ``kind`` (M, R, A) in the current year."""
        retreats: dict[str, dict[str, tuple[str, ...]]] = {power: {} for power in POWERS}
        num_seasons = 2 if kind == "A" else rng.randrange(2)
        for _ in range(num_seasons):
            self.play_season(rng)
        if kind == "A":
            self.capture_centers(rng)
        if kind == "R":
            for _ in range(rng.choice((1, 1, 1, 2))):
                self._dislodge(retreats, rng)
        season = "W" if kind == "A" else "SF"[num_seasons]
        return Position(
            phase=f"{season}{self.year}{kind}",
            units={power: tuple(sorted(u for owner, u in self.units.values() if owner == power)) for power in POWERS},
            centers={power: tuple(self.centers_of(power)) for power in POWERS},
            retreats=retreats,
            builds={power: self.num_builds(power) if kind == "A" else 0 for power in POWERS},
        )

    def _dislodge(self, retreats: dict[str, dict[str, tuple[str, ...]]], rng: random.Random) -> None:
        """A random unit is beaten by a neighbor of another power, if there is such a pair."""
        pairs = [
            (origin, target)
            for origin, (power, unit) in sorted(self.units.items())
            for target in moves_of(unit)
            if province_of(target) in self.units and self.units[province_of(target)][0] != power
        ]
        if not pairs:
            return
        origin, target = rng.choice(pairs)
        loser, beaten = self.units.pop(province_of(target))
        winner, unit = self.units.pop(origin)
        self.units[province_of(target)] = (winner, f"{unit[0]} {target}")
        free = (code for code in moves_of(beaten) if province_of(code) not in self.units)
        retreats[loser][beaten] = tuple(code for code in free if province_of(code) != origin)

    def centers_of(self, power: str) -> list[str]:
        return [center for center in CENTERS if self.owners.get(center) == power]

    def build_sites(self, power: str) -> list[str]:
        return [home for home in HOMES[power] if self.owners.get(home) == power and home not in self.units]

    def num_builds(self, power: str) -> int:
        num_units = sum(owner == power for owner, _ in self.units.values())
        return min(len(self.centers_of(power)) - num_units, len(self.build_sites(power)))


def _buildable(site: str) -> list[str]:
    locations = coasts_of(site) or (site,)
    return [f"A {site}", *(f"F {code}" for code in locations if LOCATIONS[code].fleet_moves)]


def _choices(position: Position, power: str) -> tuple[tuple[str, ...], ...]:
    if position.kind == "movement":
        orders_at = {unit[2:5]: _movement_orders(unit, position) for unit in position.units[power]}
    elif position.kind == "retreat":
        orders_at = {
            unit[2:5]: [f"{unit} D", *(f"{unit} R {target}" for target in targets)]
            for unit, targets in position.retreats[power].items()
        }
    elif position.builds[power] < 0:
        orders_at = {unit[2:5]: [f"{unit} D"] for unit in position.units[power]}
    else:
        taken = {unit[2:5] for units in position.units.values() for unit in units}
        sites = [home for home in HOMES[power] if home in position.centers[power] and home not in taken]
        orders_at = {site: [WAIVE, *(f"{unit} B" for unit in _buildable(site))] for site in sites}
        if position.builds[power] == 0:
            return ()
    if position.kind == "adjustment":
        return order_choices(orders_at, position.builds[power]).segments
    return order_choices(orders_at).segments


def _movement_orders(unit: str, position: Position) -> set[str]:
    others = [other for units in position.units.values() for other in units if other != unit]
    reach = {province_of(code) for code in moves_of(unit)}
    orders = {f"{unit} H", *(f"{unit} - {target}" for target in moves_of(unit))}
    for other in others:
        if other[2:5] in reach:
            orders.add(f"{unit} S {other}")
        for target in moves_of(other):
            if province_of(target) in reach:
                orders |= {f"{unit} S {other} - {target}", f"{unit} S {other} - {province_of(target)}"}
    at_sea = [other for other in others if other[0] == "F" and LOCATIONS[other[2:]].is_sea]
    if unit[0] == "A":
        shores = {shore for fleet in at_sea for shore in _shores(fleet) if unit[2:] in _shores(fleet)}
        orders |= {f"{unit} - {shore} VIA" for shore in shores - {unit[2:]}}
    elif LOCATIONS[unit[2:]].is_sea:
        armies = [other for other in others if other[0] == "A" and other[2:] in _shores(unit)]
        orders |= {f"{unit} C {army} - {shore}" for army in armies for shore in _shores(unit) - {army[2:]}}
    return orders


def _shores(fleet: str) -> set[str]:
    """Provinces between which a fleet at sea can convoy alone."""
    return {province_of(code) for code in moves_of(fleet) if not LOCATIONS[code].is_sea}
