"""What the plugin keeps with the session and with each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.gate.session import GateSession

NUM_GATES = pytest.StashKey[int]()
"""How many of the collected tests measure arms."""
GATE: pytest.StashKey[Gate] = pytest.StashKey()
"""The gate of a test that asked for one."""
GATE_SESSION: pytest.StashKey[GateSession] = pytest.StashKey()
"""What the gates of this process share."""
