"""Hooks that other plugins and a conftest.py can implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_grpo.types import Row


@pytest.hookspec
def pytest_grpo_verdict(config: pytest.Config, row: Row) -> None:
    """Called once for each verdict, after its test has ended.

    Runs in the process that reports: the controller with xdist, the local session with ``--modal``.

    :param config: the session's configuration.
    :param row: the measurement, its threshold and the verdict. With ``--grpo-against`` also each comparison of the two
        versions: ``row.outcome`` then says what was found, such as ``"slower"``, ``row.measured`` is the ratio of this
        side over the other, ``row.arms`` has the samples of both sides, and ``bound_low`` to ``bound_high`` counts as
        the same. ``outcome`` is empty for a gate.
    """
