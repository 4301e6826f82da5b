"""Runs the tests in order, of which some run elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


class LocalLoop:
    """Takes the place of pytest's loop, with another next test.

    After a test pytest keeps the fixtures that the next one needs. A test that runs elsewhere needs none here and tears
    none down, so the next one is the next test that runs here.
    """

    def __init__(self, runs_elsewhere: Callable[[pytest.Item], bool]) -> None:
        self._runs_elsewhere = runs_elsewhere

    @pytest.hookimpl
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed and not session.config.getoption("continue_on_collection_errors"):
            return None  # pytest's own loop ends the session
        for item, following in zip(session.items, self._next_here(session.items), strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return True

    def _next_here(self, items: Sequence[pytest.Item]) -> list[pytest.Item | None]:
        """For each item the next one that runs here."""
        following: list[pytest.Item | None] = []
        found: pytest.Item | None = None
        for item in reversed(items):
            following.append(found)
            if not self._runs_elsewhere(item):
                found = item
        return following[::-1]
