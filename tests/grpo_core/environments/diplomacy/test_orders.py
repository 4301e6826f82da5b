from __future__ import annotations

from itertools import product

import pytest

from grpo_core.environments.diplomacy.orders import accept_orders, order_choices, parse_orders, unit_options

SITES = {
    "PAR": ["A PAR B", "WAIVE"],
    "BRE": ["F BRE B", "A BRE B", "WAIVE"],
    "MAR": ["A MAR B", "F MAR B", "WAIVE"],
}


def test_a_segment_per_location_sorted_whatever_the_order_they_came_in() -> None:
    choices = order_choices({"PAR": {"A PAR H", "A PAR - BUR"}, "BRE": ["F BRE H", "F BRE - MAO"]})
    assert choices.segments == (("F BRE - MAO\n", "F BRE H\n"), ("A PAR - BUR\n", "A PAR H\n"))
    assert not choices.distinct


def test_removals_name_each_unit_once() -> None:
    choices = order_choices({"PAR": ["A PAR D"], "BRE": ["F BRE D"], "MAR": ["A MAR D"]}, -2)
    assert choices.segments == (("A MAR D\n", "A PAR D\n", "F BRE D\n"),) * 2
    assert choices.distinct


@pytest.mark.parametrize("num_builds", [1, 2, 3])
def test_every_set_of_builds_can_be_answered_and_nothing_else(num_builds: int) -> None:
    choices = order_choices(SITES, num_builds)
    assert len(choices.segments) == num_builds
    answered = set()
    for lines in product(*choices.segments):
        orders, _ = accept_orders("".join(lines), choices)
        answered.add(frozenset(order for order in orders if order != "WAIVE"))
    units = [[order for order in orders if order != "WAIVE"] for orders in SITES.values()]
    expected = {frozenset(filter(None, built)) for built in product(*([None, *orders] for orders in units))}
    assert answered == {built for built in expected if len(built) <= num_builds}


def test_as_many_builds_as_sites_can_never_name_a_site_twice() -> None:
    assert [{line[2:5] for line in lines if line != "WAIVE\n"} for lines in order_choices(SITES, 3).segments] == [
        {"BRE"},
        {"MAR"},
        {"PAR"},
    ]


def test_lines_that_cannot_be_played_are_counted() -> None:
    choices = order_choices(SITES, 2)
    assert accept_orders("WAIVE\nWAIVE\n", choices) == (["WAIVE", "WAIVE"], 0)
    assert accept_orders("A BRE B\nF BRE B\n", choices) == (["A BRE B"], 1)
    assert accept_orders("A BRE B\nA PAR B\nA MAR B\n", choices) == (["A BRE B", "A PAR B"], 1)
    assert accept_orders("build all\n\nA LON B\n a bre b", choices) == ([], 3)
    assert accept_orders("", choices) == ([], 0)


def test_parse_orders_strips_blanks() -> None:
    assert parse_orders("  A PAR H \r\n\n\tF BRE - MAO") == ["A PAR H", "F BRE - MAO"]


def test_unit_options_read_every_form_of_order() -> None:
    fleet = unit_options(
        (
            "F MAO - SPA/SC\n",
            "F MAO - BRE\n",
            "F MAO C A GAS - POR\n",
            "F MAO C A GAS - NAF\n",
            "F MAO H\n",
            "F MAO S A GAS - SPA\n",
            "F MAO S F STP/SC\n",
            "F MAO S A GAS\n",
        )
    )
    assert fleet.unit == "F MAO"
    assert fleet.moves == ("BRE", "SPA/SC")
    assert fleet.convoys == ("A GAS",)
    assert fleet.supports == ("A GAS", "F STP/SC")
    army = unit_options(("A GAS - POR VIA\n", "A GAS H\n"))
    assert (army.moves, army.convoy_moves) == ((), ("POR",))
    dislodged = unit_options(("F STP/SC D\n", "F STP/SC R BOT\n"))
    assert (dislodged.unit, dislodged.retreats) == ("F STP/SC", ("BOT",))
