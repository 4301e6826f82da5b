"""Who waits for vLLM does so for a bounded time, and for as long as it works. vLLM is not needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from grpo_core.errors import EngineError
from grpo_core.rollout.vllm_engine.watchdog import CHECK_EVERY_S, Watchdog

LIMIT_S = 20.0
MOST_CHECKS = round((LIMIT_S + 10) / CHECK_EVERY_S)


def test_it_ends_a_while_after_vllms_own_limit() -> None:
    statistics: Any = SimpleNamespace(num_iterations=7)
    watchdog = Watchdog(statistics, LIMIT_S)
    for _ in range(MOST_CHECKS):
        watchdog.check()

    with pytest.raises(EngineError, match=r"no step of it has ended within 20 s; .* --resume") as raised:
        watchdog.check()

    assert "\n" not in str(raised.value)


def test_any_step_that_ends_begins_it_anew() -> None:
    statistics: Any = SimpleNamespace(num_iterations=0)
    watchdog = Watchdog(statistics, LIMIT_S)
    for _ in range(5):
        for _ in range(MOST_CHECKS):
            watchdog.check()
        statistics.num_iterations += 1

    watchdog.check()
