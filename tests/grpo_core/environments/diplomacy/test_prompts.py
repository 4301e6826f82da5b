from __future__ import annotations

import random
import re
from collections.abc import Callable

from grpo_core.environments.diplomacy.board import CENTERS, LOCATIONS, POWERS
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.environments.diplomacy.position import Position
from grpo_core.environments.diplomacy.prompts import compact_prompt, full_prompt
from grpo_core.environments.diplomacy.synthetic import sample_position
from grpo_core.types import Observation

Player = Callable[[random.Random, Observation], str]


def test_sizes_at_the_start() -> None:
    environment = DiplomacyEnvironment()
    for observation in environment.observe():
        assert observation.choices is not None
        compact = compact_prompt(environment.position, observation.agent, observation.choices)
        assert 3000 <= len(observation.prompt) <= 3700
        assert 500 <= len(compact) <= 800
        assert 4 <= len(observation.prompt) / len(compact) <= 6.5


def test_sizes_stay_bounded_on_crowded_boards() -> None:
    """Seventeen units of one power among seventeen others: more than a game can have before it is won."""
    rng = random.Random(0)
    environment = DiplomacyEnvironment()
    snapshot = environment.snapshot()
    for _ in range(12):
        places = rng.sample([code for code in LOCATIONS if LOCATIONS[code].is_sea], rng.randrange(5, 19))
        places += rng.sample([code for code in LOCATIONS if LOCATIONS[code].army_moves], 34 - len(places))
        units = [f"{'F' if LOCATIONS[code].is_sea else 'A'} {code}" for code in places]
        others = [power for power in POWERS if power != "FRANCE"]
        state = snapshot["state"]
        state["units"] = {"FRANCE": units[:17]} | {power: units[17 + i :: 6] for i, power in enumerate(others)}
        state["centers"] = {"FRANCE": CENTERS[:17]} | {power: CENTERS[17 + i :: 6] for i, power in enumerate(others)}
        state["centers"] = {power: list(centers) for power, centers in state["centers"].items()}
        environment.restore(snapshot)
        for observation in environment.observe():
            assert observation.choices is not None
            assert len(observation.prompt) <= 8500
            assert len(compact_prompt(environment.position, observation.agent, observation.choices)) <= 3200


def test_both_styles_tell_the_same_in_every_phase(play_at_random: Player) -> None:
    rng = random.Random(6)
    environment = DiplomacyEnvironment(horizon=3)
    kinds = set()
    while not environment.done:
        kinds.add(environment.position.kind)
        for observation in environment.observe():
            assert observation.choices is not None
            compact = compact_prompt(environment.position, observation.agent, observation.choices)
            _check_told(environment.position, observation, compact)
        environment.step({each.agent: play_at_random(rng, each) for each in environment.observe()})
    assert kinds == {"movement", "retreat", "adjustment"}


def _check_told(position: Position, observation: Observation, compact: str) -> None:
    full = observation.prompt
    assert full.endswith("\nOrders:\n")
    assert compact.endswith("\nOrders:\n")
    assert position.phase in full
    assert position.phase in compact
    for power in POWERS:
        line = next(line for line in compact.splitlines() if line.startswith(f"{power[:3]} "))
        units, centers = line[4:].split("; ")
        dislodged = [f"{unit} dislodged" for unit in position.retreats[power]]
        assert units == (",".join([*position.units[power], *dislodged]) or "none")
        assert centers == (",".join(position.centers[power]) or "none")
        told = re.findall(rf"^- {power.title()}: (army|fleet) in .* \((\S+)\)(, dislodged)?$", full, re.MULTILINE)
        assert sorted(f"{arm[0].upper()} {code}" for arm, code, gone in told if not gone) == list(position.units[power])
        assert sorted(f"{arm[0].upper()} {code}" for arm, code, gone in told if gone) == sorted(
            position.retreats[power]
        )
        owned = re.findall(rf"^- .* \((\w+)\): {power.title()}$", full, re.MULTILINE)
        assert sorted(owned) == list(position.centers[power])
    mine = full.partition("\nYou are ")[2]
    assert mine.startswith(observation.agent.title())
    assert f"\nYou {observation.agent[:3]}" in compact
    own_codes = set(re.findall(r"\b[A-Z]{3}\b(?:/[NSE]C)?", mine))
    assert own_codes == set(
        re.findall(r"\b[A-Z]{3}\b(?:/[NSE]C)?", compact.partition("\nYou ")[2][3:].replace("VIA", ""))
    )


def test_every_way_of_a_unit_is_told() -> None:
    environment = DiplomacyEnvironment()
    snapshot = environment.snapshot()
    snapshot["state"]["units"]["ENGLAND"] = ["F ENG", "A LON"]
    environment.restore(snapshot)
    england = environment.observe()[POWERS.index("ENGLAND")]
    assert england.choices is not None
    compact = compact_prompt(environment.position, "ENGLAND", england.choices)
    assert (
        "- army in London (LON): hold; move to Wales (WAL), Yorkshire (YOR); "
        "move by convoy to BEL, BRE, PIC, WAL; support F ENG\n" in england.prompt
    )
    assert "\nA LON - WAL,YOR VIA BEL,BRE,PIC,WAL S F ENG\n" in compact
    fleet = next(line for line in england.prompt.splitlines() if line.startswith("- fleet in English Channel (ENG): "))
    assert fleet.endswith("; support A LON, A PAR, F BRE; convoy A LON")
    assert " S A LON,A PAR,F BRE C A LON\n" in compact


def test_what_all_powers_see_comes_first() -> None:
    for marker, compact in ("\nYou are ", False), ("\nYou ", True):
        prompts = [each.prompt for each in DiplomacyEnvironment(compact_prompts=compact).observe()]
        assert len({prompt.partition(marker)[0] for prompt in prompts}) == 1
        assert all(len(prompt.partition(marker)[2]) < 0.35 * len(prompt) for prompt in prompts)


def test_prompts_are_pure() -> None:
    position, power, choices = sample_position(random.Random(2))
    assert full_prompt(position, power, choices) == full_prompt(position, power, choices)
    assert compact_prompt(position, power, choices) == compact_prompt(position, power, choices)
