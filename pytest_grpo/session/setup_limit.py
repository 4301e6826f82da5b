"""Bounds the set-up of tests that have a gate."""

from __future__ import annotations

from functools import partial

import pytest

from pytest_grpo.gate.setup_clock import end_setup, setup_limit_s
from pytest_grpo.gate.stash import GATE_SESSION
from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.settings.phases import without_fixture
from pytest_grpo.types import SIDE_PLUGIN


def start_setup_clock(item: pytest.Item) -> None:
    """Bound the set-up of ``item``. A worker of a comparison has the limits of the session that waits for it."""
    from pytest_grpo.session.fixtures import gate_session  # here: pytest rewrites its assertions when it is first read

    config = item.config
    _, with_gate = without_fixture([item], "grpo_gate")
    if with_gate and not config.pluginmanager.has_plugin(SIDE_PLUGIN):
        settings = config.stash[PLUGIN_CONFIG]
        limit_s = setup_limit_s(settings.budget_s)
        gate_session(config).setup_clock.start(limit_s, partial(end_setup, item, settings))


def stop_setup_clock(config: pytest.Config) -> None:
    """Without effect where none runs."""
    if GATE_SESSION in config.stash:
        config.stash[GATE_SESSION].setup_clock.stop()
