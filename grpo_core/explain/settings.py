"""The configuration that a run was trained with."""

from __future__ import annotations

from grpo_core.config.values import flattened
from grpo_core.explain.rules import Settings
from grpo_core.home import Home
from grpo_core.training.checkpoint.state import newest_state


def settings_of(home: Home, run: str) -> Settings:
    """The run's configuration by dotted key, from its newest checkpoint; empty without one."""
    state = newest_state(home.checkpoints / run)
    return {} if state is None else flattened(state["config"])
