"""The fixtures that tests of a phase use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_grpo.config import PLUGIN_CONFIG, thresholds_of

if TYPE_CHECKING:
    from pytest_grpo.gates import Gate
    from pytest_grpo.measure import Progress


@pytest.fixture
def grpo_gate(request: pytest.FixtureRequest) -> Gate:
    """The gate of this test: ``speedup``, ``cost``, ``estimate`` and ``check`` against named thresholds."""
    from pytest_grpo.gates import Gate

    return Gate(
        config=request.config.stash[PLUGIN_CONFIG],
        thresholds=thresholds_of(request.config),
        properties=request.node.user_properties,
        progress=_terminal_progress(request.config),
    )


def _terminal_progress(config: pytest.Config) -> Progress | None:
    """Shows how far the pairs are, in place, and takes it back when they are done. Only for people: on a terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or not reporter.isatty or reporter.verbosity < 0:
        return None

    def show(done: int, planned: int) -> None:
        text = f"[pair {done} of {planned}]"
        shown = " " * len(text) if done == planned else text
        # Past the reporter, which counts columns and knows no way back.
        with capture.global_and_fixture_disabled():
            sys.stdout.write(shown + "\b" * len(text))
            sys.stdout.flush()

    return show
