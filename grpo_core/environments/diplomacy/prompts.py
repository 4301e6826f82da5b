"""Two ways to say the same position: ``full`` spells it out, ``compact`` abbreviates.

Both begin with what all powers see and end with what concerns one power, so that prompts of one phase share a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

from grpo_core.environments.diplomacy.board import CENTERS, LOCATIONS, POWERS
from grpo_core.environments.diplomacy.orders import WAIVE, UnitOptions, unit_options
from grpo_core.environments.diplomacy.position import Position

Segments = Sequence[Sequence[str]]

_ARMS = {"A": "army", "F": "fleet"}

MAX_LISTED = 6
"""Most convoy targets, supported units or carried armies that are listed for a unit; the rest is counted."""

_FULL_RULES = """\
You play Diplomacy. Seven great powers fight for 34 supply centers in Europe; the first to own 18 of them wins.

Rules:
- All powers write orders in secret. All orders of a phase are carried out at once.
- An army (A) moves to a neighboring province on land, a fleet (F) to a neighboring sea or coast.
- A province holds one unit, and all units are equally strong. A unit enters a province only with more strength than
any other unit that is there or moves there. Each support adds one.
- Support is cut when the unit that gives it is attacked from elsewhere.
- A unit that loses its province is dislodged: it retreats to a free province nearby or disbands.
- Fleets at sea can convoy an army from coast to coast.
- After each fall, powers own the centers that they occupy, and build units on free home centers or remove units
until they have one for each center.

How to write orders:
- A PAR H: the army in Paris holds.
- A PAR - BUR: it moves to Burgundy.
- A MAR S A PAR - BUR: the army in Marseilles supports that move.
- F ENG C A LON - BRE: the fleet in the English Channel convoys an army from London to Brest.
- A LON - BRE VIA: that army moves by convoy.
- A PAR R GAS: the dislodged army in Paris retreats to Gascony.
- A PAR D: it disbands. A PAR B: it is built. WAIVE: a build is not used.
"""

_COMPACT_RULES = """\
Diplomacy. A army F fleet H hold - move VIA by convoy S support C convoy R retreat D disband B build
"""


def full_prompt(position: Position, power: str, segments: Segments) -> str:
    """Everything in words. ``segments`` are the power's legal orders, as in ``Observation.choices``."""
    owner = {center: power.title() for power in POWERS for center in position.centers[power]}
    lines = [
        _FULL_RULES,
        f"It is {position.season} {position.year}, the {position.kind} phase ({position.phase}).",
        "",
        "Units on the board:",
        *(line for name in POWERS for line in _full_units(position, name)),
        "",
        "Owners of the supply centers:",
        *(f"- {_named(center)}: {owner.get(center, 'nobody')}" for center in CENTERS),
        "",
        *_full_task(position, power, segments),
        "Orders:\n",
    ]
    return "\n".join(lines)


def compact_prompt(position: Position, power: str, segments: Segments) -> str:
    """The same in codes, about a fifth as long."""
    owned = {center for centers in position.centers.values() for center in centers}
    free = ",".join(center for center in CENTERS if center not in owned)
    lines = [
        _COMPACT_RULES + position.phase,
        *(_compact_power(position, name) for name in POWERS),
        f"FREE {free or 'none'}",
        *_compact_task(position, power, segments),
        "Orders:\n",
    ]
    return "\n".join(lines)


def _named(location: str) -> str:
    return f"{LOCATIONS[location].name} ({location})"


def _described(unit: str) -> str:
    return f"{_ARMS[unit[0]]} in {_named(unit[2:])}"


def _listed(codes: Sequence[str], separator: str) -> str:
    """Bounded, so that a late game with fleets in every sea still makes a prompt of at most 8500 characters."""
    more = [f"{len(codes) - MAX_LISTED} more"] if len(codes) > MAX_LISTED else []
    return separator.join([*codes[:MAX_LISTED], *more])


def _full_units(position: Position, power: str) -> list[str]:
    units = [f"- {power.title()}: {_described(unit)}" for unit in position.units[power]]
    return units + [f"- {power.title()}: {_described(unit)}, dislodged" for unit in sorted(position.retreats[power])]


def _full_task(position: Position, power: str, segments: Segments) -> list[str]:
    name = power.title()
    if position.kind == "adjustment":
        duty = "may build" if position.builds[power] > 0 else "must remove"
        return [
            f"You are {name}. You {duty} {len(segments)} of these units:",
            *(f"- {_described(unit)}" for unit in _adjustable_units(segments)),
            "Write one order for each on a line of its own, and nothing else.",
        ]
    return [
        f"You are {name}. What your units can do:",
        *(_full_options(unit_options(segment), position) for segment in segments),
        "Write one order for each of these units on a line of its own, in this order, and nothing else.",
    ]


def _adjustable_units(segments: Segments) -> list[str]:
    """The units that the lines build or disband, ``A PAR`` of ``A PAR B``."""
    return sorted({line[:-3] for segment in segments for line in segment if line.strip() != WAIVE})


def _full_options(options: UnitOptions, position: Position) -> str:
    ways = ["disband"] if position.kind == "retreat" else ["hold"]
    if options.moves:
        ways.append("move to " + ", ".join(map(_named, options.moves)))
    if options.convoy_moves:
        ways.append("move by convoy to " + _listed(options.convoy_moves, ", "))
    if options.supports:
        ways.append("support " + _listed(options.supports, ", "))
    if options.convoys:
        ways.append("convoy " + _listed(options.convoys, ", "))
    if options.retreats:
        ways.append("retreat to " + ", ".join(map(_named, options.retreats)))
    return f"- {_described(options.unit)}: " + "; ".join(ways)


def _compact_power(position: Position, power: str) -> str:
    units = [*position.units[power], *(f"{unit} dislodged" for unit in sorted(position.retreats[power]))]
    return f"{power[:3]} {','.join(units) or 'none'}; {','.join(position.centers[power]) or 'none'}"


def _compact_task(position: Position, power: str, segments: Segments) -> list[str]:
    if position.kind == "adjustment":
        verb = "build" if position.builds[power] > 0 else "remove"
        return [f"You {power[:3]} {verb} {len(segments)} of {','.join(_adjustable_units(segments))}"]
    return [f"You {power[:3]}", *(_compact_options(unit_options(segment)) for segment in segments)]


def _compact_options(options: UnitOptions) -> str:
    ways = {
        "-": ",".join(options.moves),
        "VIA": _listed(options.convoy_moves, ","),
        "S": _listed(options.supports, ","),
        "C": _listed(options.convoys, ","),
        "R": ",".join(options.retreats),
    }
    return " ".join([options.unit, *(f"{key} {codes}" for key, codes in ways.items() if codes)])
