"""Who waits for vLLM does so for a bounded time, and for as long as it works. vLLM is not needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from grpo_core.errors import EngineError
from grpo_core.rollout.vllm_engine.silence import LOOK_EVERY_S, Silence

LIMIT_S = 20.0
MOST_LOOKS = round((LIMIT_S + 10) / LOOK_EVERY_S)


def test_it_ends_a_while_after_vllms_own_limit() -> None:
    statistics: Any = SimpleNamespace(num_signs=7)
    silence = Silence(statistics, LIMIT_S)
    for _ in range(MOST_LOOKS):
        silence.look()

    with pytest.raises(EngineError, match=r"no step of it has ended within 20 s; .* --resume") as raised:
        silence.look()

    assert "\n" not in str(raised.value)


def test_any_step_that_ends_begins_it_anew() -> None:
    statistics: Any = SimpleNamespace(num_signs=0)
    silence = Silence(statistics, LIMIT_S)
    for _ in range(5):
        for _ in range(MOST_LOOKS):
            silence.look()
        statistics.num_signs += 1

    silence.look()
