"""Hooks that other plugins and a conftest.py can implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_grpo.types import Row


@pytest.hookspec
def pytest_grpo_verdict(config: pytest.Config, row: Row) -> None:
    """Called once for each verdict, when its test has ended.

    Runs in the process that reports: with xdist that is the controller, with a remote it is this machine.

    :param config: the session's configuration.
    :param row: what was measured, its threshold and the verdict.
    """
