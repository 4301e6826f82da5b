"""The fixtures of the plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_grpo.gate.stash import GATE, GATE_SESSION, NEW_COMPARISON, NUM_GATES
from pytest_grpo.session.stored_results import STORED
from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.settings.phases import phases_of

if TYPE_CHECKING:
    from pathlib import Path

    from grpo_core.config import GrpoConfig
    from pytest_grpo.arms import MeasuredArm
    from pytest_grpo.gate.gate_session import GateSession, ShowProgress
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.settings.thresholds import Threshold
    from pytest_grpo.systems.protocol import GrpoSystem


@pytest.fixture
def grpo_gate(request: pytest.FixtureRequest) -> Gate:
    """The gate of this test: ``check(name, value)`` compares a number with a named threshold.

    To measure arms, use ``grpo_arms`` and ``grpo_threshold``.
    """
    from pytest_grpo.gate.comparison import PairedComparison
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.settings.thresholds import thresholds_of

    config: pytest.Config = request.config
    item = request.node
    settings = config.stash[PLUGIN_CONFIG]
    session = gate_session(config)
    session.forget(item.nodeid)
    gate = Gate(
        config=settings,
        thresholds=thresholds_of(config, item),
        session=session,
        phase=min(phases_of(item), default=None),
        properties=item.user_properties,
        system=_system_of(request.fixturenames, settings.system),
        show_progress=terminal_progress(config),
        inspect=partial(config.stash[STORED].regression, item.nodeid),
        nodeid=item.nodeid,
        is_baseline_decided=partial(config.stash[STORED].is_baseline_decided, item.nodeid),
        new_comparison=config.stash.get(NEW_COMPARISON, PairedComparison),
    )
    item.stash[GATE] = gate
    return gate


def _system_of(fixturenames: Sequence[str], chosen: str) -> str:
    """What a test with these fixtures measures: the chosen system, grpo_core, or, as far as is known, none."""
    if "grpo_system" in fixturenames or "grpo_system_name" in fixturenames:
        return chosen
    return "grpo_core" if "grpo_run" in fixturenames else ""


@pytest.fixture
def grpo_arms(grpo_gate: Gate) -> Callable[..., tuple[MeasuredArm, ...]]:
    """Arms to compare: ``fast, slow = grpo_arms(agree=same_tokens, fast=run_fast, slow=run_slow)``.

    An arm is a callable. It returns its quantities by name (``{"tokens": 512, "seconds": 0.2}``), a ``Sample`` that
    also has an output, or None; without ``seconds`` it is timed. ``agree`` compares the outputs of each round (see
    ``pytest_grpo.agreement``): a faster wrong answer fails. ``block_size`` runs an arm several times
    in a row; ``max_cores_of_others`` replaces the ini ``grpo_max_cores_of_others``: rounds during which other
    processes used more cores than that are measured again.

    Comparing two quantities (``>=``, ``<=``, ``== approx_ratio(...)``) measures until the result is decided. Each
    comparison is a verdict: a red one fails the test, also without ``assert``, and so do arms that are never compared.
    """
    return grpo_gate.measure


@pytest.fixture
def grpo_threshold(grpo_gate: Gate) -> Callable[[str], Threshold]:
    """Named thresholds: ``assert fast.seconds <= grpo_threshold("cost") * slow.seconds``."""
    return grpo_gate.threshold


@pytest.fixture(scope="session")
def grpo_run(pytestconfig: pytest.Config) -> GrpoConfig:
    """The configuration of the run that the phases judge, from ``--grpo-config`` and the like; else grpo_core's
    defaults."""
    return pytestconfig.stash[PLUGIN_CONFIG].run.config()


@pytest.fixture(scope="session")
def grpo_system_name(pytestconfig: pytest.Config) -> str:
    """What ``--grpo-system`` says, for fixtures that build the system themselves."""
    return pytestconfig.stash[PLUGIN_CONFIG].system


@pytest.fixture
def grpo_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpoSystem]:
    """The training stack under test, from ``--grpo-system``. Override this fixture to test your own."""
    yield from _open(request.config, request.config.stash[PLUGIN_CONFIG].system, tmp_path_factory.mktemp("system"))


@pytest.fixture
def grpo_versus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpoSystem]:
    """The stack to compare with, from ``--grpo-versus``; without that option the test is deselected."""
    versus = request.config.stash[PLUGIN_CONFIG].versus
    if versus is None:
        pytest.skip("nothing to compare with; name a system with --grpo-versus")
    yield from _open(request.config, versus, tmp_path_factory.mktemp("versus"))


def _open(config: pytest.Config, name: str, home: Path) -> Iterator[GrpoSystem]:
    from pytest_grpo.systems.load import open_system, settings_of

    with open_system(name, settings_of(config.stash[PLUGIN_CONFIG].run, home)) as system:
        yield system


def gate_session(config: pytest.Config) -> GateSession:
    """What the gates of this process share."""
    if GATE_SESSION not in config.stash:
        from pytest_grpo.gate.gate_session import GateSession
        from pytest_grpo.measuring.statistics.error_budget import ErrorBudget

        settings = config.stash[PLUGIN_CONFIG]
        num_gates = settings.num_gates or config.stash.get(NUM_GATES, 1)
        config.stash[GATE_SESSION] = GateSession(
            ErrorBudget(max(1, num_gates)), settings.has_control, settings.max_cores_of_others
        )
    return config.stash[GATE_SESSION]


def terminal_progress(config: pytest.Config) -> ShowProgress | None:
    """Shows sampling progress in place on a terminal, and clears it at the end; None elsewhere."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or not reporter.isatty or reporter.verbosity < 0:
        return None
    shown_before = ""

    def show(text: str) -> None:
        nonlocal shown_before
        width = max(len(text), len(shown_before))
        shown_before = text
        # Bypass the reporter: it counts columns and cannot go back.
        with capture.global_and_fixture_disabled():
            sys.stdout.write(text.ljust(width) + "\b" * width)
            sys.stdout.flush()

    return show
