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
    :param row: the measurement, its threshold and the verdict.
    """
