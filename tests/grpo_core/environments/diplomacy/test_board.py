from __future__ import annotations

from grpo_core.environments.diplomacy.board import (
    CENTERS,
    HOMES,
    LOCATIONS,
    POWERS,
    START_UNITS,
    coasts_of,
    moves_of,
)
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment


def test_the_map_has_its_known_size() -> None:
    provinces = [code for code, location in LOCATIONS.items() if not location.is_coast]
    assert len(provinces) == 75
    assert len(CENTERS) == 34
    assert sum(LOCATIONS[code].is_sea for code in provinces) == 19
    assert {len(homes) for homes in HOMES.values()} == {3, 4}
    assert coasts_of("STP") == ("STP/NC", "STP/SC")
    assert coasts_of("PAR") == ()


def test_the_data_agree_with_the_engine_in_both_directions() -> None:
    start = DiplomacyEnvironment().position
    assert {power: tuple(sorted(units)) for power, units in START_UNITS.items()} == dict(start.units)
    assert dict(start.centers) == HOMES
    from diplomacy.engine.game import Game  # its files are open by now

    game = Game()
    board = game.map
    assert set(board.scs) == set(CENTERS)
    assert set(POWERS) == set(board.powers)
    assert {code.upper() for code in board.locs} - {"SWI"} == set(LOCATIONS)
    for unit in [f"{kind} {code}" for kind in "AF" for code in LOCATIONS]:
        if not board.is_valid_unit(unit):
            assert not moves_of(unit)
            continue
        game.clear_units()
        game.set_units("FRANCE", unit)
        orders = game.get_all_possible_orders()[unit[2:]]
        assert {order[len(unit) + 3 :] for order in orders if " - " in order} == set(moves_of(unit)), unit
