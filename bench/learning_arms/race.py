"""One run of the whole loop, as it trains, until it has reached a reward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.checks.learning import Goal, Race, race_to


def race(settings: Mapping[str, Any], seed: int, goal: Goal, folder: Path) -> Race:
    """Train with the nested ``settings`` and ``seed`` until ``goal``. Loading the model is not in the seconds.

    Raises:
        GrpoError: the settings are not allowed, or the run fails.
    """
    from grpo_core.config import build_config
    from grpo_core.config.values import merged
    from grpo_core.home import Home
    from grpo_core.schedule.stack import build_stack

    own = {"run": "race", "rollout": {"seed": seed}, "schedule": {"num_steps": goal.max_steps}}
    with build_stack(build_config(merged(settings, own)), Home(folder / "data", folder / "traces")) as stack:
        return race_to(stack, goal)
