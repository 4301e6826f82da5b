from __future__ import annotations

from typing import Any

import pytest

from bench.publish_speed import run
from grpo_core.commands.train import FIRST_RUN
from grpo_core.config.flags import put


@pytest.mark.slow
@pytest.mark.parametrize("waits", [False, True])
def test_both_arms_publish_the_same_versions(waits: bool) -> None:
    settings: dict[str, Any] = {}
    for key, value in {**FIRST_RUN, "schedule.num_steps": 3, "run": "publishing"}.items():
        put(settings, key, value)

    costs = run(settings, waits=waits)

    assert 0 < costs.publish_ms < costs.step_ms
    assert costs.load_ms > 0
    assert costs.num_bytes > 10_000
