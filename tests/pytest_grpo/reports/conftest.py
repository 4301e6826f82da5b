from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_grpo.types import Row

MakeRow = Callable[..., Row]


def a_row(metric: str, **changed: Any) -> Row:
    """A measured row that passes, but for what is changed."""
    fields: dict[str, Any] = {
        "metric": metric,
        "phase": 2,
        "kind": "at_least",
        "bound_low": 2.0,
        "bound_high": None,
        "threshold": ">= 2 x",
        "source": "bench/thresholds.toml",
        "unit": "x",
        "verdict": "pass",
        "reason": "",
        "measured": 2.5,
        "device": "cpu, 2 cores",
        "low": 2.25,
        "high": 2.75,
        "confidence": 0.9922,
        "num_pairs": 4,
        "ratios": [2.25, 2.5, 2.5, 2.75],
        "quantity": "tokens_per_second",
        "arms": {
            "fast": {"seconds": [0.1, 0.1, 0.1, 0.1], "tokens": [25.0, 25.0, 25.0, 25.0]},
            "slow": {"seconds": [0.25, 0.25, 0.25, 0.25], "tokens": [25.0, 25.0, 25.0, 25.0]},
        },
        "conditions": {"cores_of_others": 0.25, "cpu_mhz": None, "gpu_throttle_reasons": []},
        "duration_s": 1.5,
    }
    return Row(**(fields | changed))


def a_count(metric: str, **changed: Any) -> Row:
    """A counted row that fails, but for what is changed."""
    plain = dict.fromkeys(("low", "high", "confidence", "num_pairs", "ratios", "quantity", "arms", "conditions"))
    fields = {"phase": 3, "kind": "equals", "bound_low": 0.0, "bound_high": 0.0, "threshold": "== 0", "unit": ""}
    said = {"verdict": "fail", "reason": "counts are exact: 4 is not 0", "measured": 4.0, "duration_s": 0.0}
    return a_row(metric, **(plain | fields | said | changed))


def a_change(metric: str, **changed: Any) -> Row:
    """A row of two versions that is slower, but for what is changed."""
    plain = {"kind": "within", "bound_low": 0.95, "bound_high": 1.0526, "threshold": "0.95..1.05", "unit": ""}
    said = {"source": "--grpo-against main", "verdict": "fail", "outcome": "slower"}
    found = {"measured": 0.8, "low": 0.75, "high": 0.85, "ratios": [0.8, 0.75, 0.85, 0.8], "num_pairs": 4}
    sides = {
        "here": {"seconds": [0.125, 0.13, 0.12, 0.125], "tokens": [10.0, 10.0, 10.0, 10.0]},
        "main": {"seconds": [0.1, 0.1, 0.1, 0.1], "tokens": [10.0, 10.0, 10.0, 10.0]},
    }
    return a_row(metric, **(plain | said | found | {"arms": sides} | changed))


def an_exact_change(metric: str, **changed: Any) -> Row:
    """A row of two versions without pairs that passes, but for what is changed."""
    none = dict.fromkeys(("low", "high", "confidence", "num_pairs", "ratios", "quantity", "arms", "conditions"))
    said = {"verdict": "pass", "outcome": "more", "measured": 2.0, "reason": "2 here, 1 in main"}
    return a_change(metric, **(none | said | changed))


@pytest.fixture
def measured() -> MakeRow:
    return a_row


@pytest.fixture
def counted() -> MakeRow:
    return a_count
