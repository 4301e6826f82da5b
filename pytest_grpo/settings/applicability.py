"""Tests that do not apply to the run or to the system under test."""

from __future__ import annotations

from typing import NoReturn

import pytest

from pytest_grpo.settings.phases import phases_of
from pytest_grpo.types import Absence


class NotApplicableError(pytest.skip.Exception):
    """The test has nothing to judge. It is skipped, and a phase's table says so, with this one line as the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, _use_item_location=True)


def not_applicable(reason: str) -> NoReturn:
    """Leave this test: the run or the system lacks what it is about. Its row is ``not applicable: <reason>``."""
    raise NotApplicableError(reason)


def record_absence(item: pytest.Item, error: NotApplicableError) -> None:
    """For the reports, if ``item`` is a test of a phase."""
    phases = phases_of(item)
    if phases:
        item.user_properties.append(Absence(min(phases), str(error.msg)).as_property())
