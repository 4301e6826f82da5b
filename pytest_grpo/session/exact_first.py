"""Exact gates come before timing gates: a loop that is not sound has no speed.

A plugin module of its own. It goes first, so that pytest still groups the tests of a parametrized fixture afterwards.
"""

from __future__ import annotations

import pytest

from pytest_grpo.settings.phases import phases_of, without_fixture


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Within each phase of a module or class, run the tests that do not measure arms first.

    The order stays apart from that. Tests without a phase keep their place; none leaves its module or class.
    """
    places: dict[tuple[pytest.Collector | None, frozenset[int]], list[int]] = {}
    for place, item in enumerate(items):
        if phases := phases_of(item):
            places.setdefault((item.parent, phases), []).append(place)
    for own in places.values():
        exact, timing = without_fixture([items[place] for place in own], "grpo_arms")
        for place, item in zip(own, [*exact, *timing], strict=True):
            items[place] = item
