"""A bound for what a test with a gate does beside its pairs: load a model, open an engine, run exact steps.

The clock runs from the test's set-up to its teardown. When it ends, the test is left, as by Ctrl-C: it is inconclusive.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NoReturn

import pytest

from pytest_grpo.gate.stash import GATE_SESSION
from pytest_grpo.settings.config import PLUGIN_CONFIG, PluginConfig
from pytest_grpo.settings.device import describe_device
from pytest_grpo.settings.phases import phases_of, without_fixture
from pytest_grpo.types import SIDE_PLUGIN, Row, Verdict

SETUP_FACTOR = 5
"""Set-up may take so many times ``--grpo-budget``, as slow arms may."""
MIN_SETUP_S = 120.0
"""The least bound: with a small budget a model has to be loaded, too."""


class SetupTooLongError(pytest.xfail.Exception):
    """The set-up of a test was ended: it is inconclusive."""


def start_setup_clock(item: pytest.Item) -> None:
    """Bound the set-up of ``item``. A worker of a comparison has the limits of the session that waits for it."""
    from pytest_grpo.session.fixtures import gate_session  # here: pytest rewrites its assertions when it is first read

    config = item.config
    _, with_gate = without_fixture([item], "grpo_gate")
    if with_gate and not config.pluginmanager.has_plugin(SIDE_PLUGIN):
        settings = config.stash[PLUGIN_CONFIG]
        limit_s = setup_limit_s(settings.budget_s)
        gate_session(config).setup_clock.start(limit_s, partial(_end_setup, item, settings))


def stop_setup_clock(config: pytest.Config) -> None:
    """Without effect where none runs."""
    if GATE_SESSION in config.stash:
        config.stash[GATE_SESSION].setup_clock.stop()


def setup_limit_s(budget_s: float) -> float:
    """How long a test may take beside its pairs."""
    return max(MIN_SETUP_S, SETUP_FACTOR * budget_s)


def _end_setup(item: pytest.Item, settings: PluginConfig) -> NoReturn:
    """Record that ``item`` took too long before it was decided.

    Raises:
        SetupTooLongError: it is inconclusive.
        pytest.fail.Exception: the session counts that as a failure.
    """
    limit_s = setup_limit_s(settings.budget_s)
    enough = math.ceil(2 * limit_s / SETUP_FACTOR)
    reason = (
        f"the test took {limit_s:g} s beside its pairs and was stopped; give --grpo-budget {enough}, or a smaller run"
    )
    row = Row(
        metric="setup_s",
        phase=min(phases_of(item), default=None),
        kind="at_most",
        bound_low=None,
        bound_high=limit_s,
        threshold=f"<= {limit_s:g} s",
        source=f"--grpo-budget {settings.budget_s:g}",
        unit="s",
        verdict=Verdict.INCONCLUSIVE.value,
        reason=reason,
        measured=limit_s,
        device=describe_device(settings.profile),
        num_pairs=0,  # it counts among the timing gates that decided nothing
    )
    if row.as_property() not in item.user_properties:
        item.user_properties.append(row.as_property())
    if settings.inconclusive == "fail":
        pytest.fail(f"setup_s: inconclusive: {reason}", pytrace=False)
    raise SetupTooLongError(f"setup_s: inconclusive: {reason}")
