"""Keys of what the plugin stores in pytest's stash, per session and per test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_grpo.types import without_verdicts

if TYPE_CHECKING:
    from pytest_grpo.gate.gate_session import GateSession
    from pytest_grpo.gate.gates import Gate, NewComparison

NUM_GATES = pytest.StashKey[int]()
"""The number of collected tests that measure arms."""
GATE: pytest.StashKey[Gate] = pytest.StashKey()
"""The gate of a test that asked for one."""
NEW_COMPARISON: pytest.StashKey[NewComparison] = pytest.StashKey()
"""How a gate of this process compares arms, where that is not by measuring them itself."""
GATE_SESSION: pytest.StashKey[GateSession] = pytest.StashKey()
"""State that the gates of this process share."""


def forget_attempt(item: pytest.Item) -> None:
    """Drop the verdicts of an earlier attempt at ``item``, which a plugin such as pytest-rerunfailures runs again."""
    item.user_properties[:] = without_verdicts(item.user_properties)
    if GATE in item.stash:
        del item.stash[GATE]
