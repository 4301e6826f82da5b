"""``--grpo-expect step.tokens_per_second>=1.10``: a change that must be proven."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

_FORM = re.compile(r"(?P<metric>[^\s<>=]+\.[^\s<>=.]+)\s*(?P<sign>>=|<=)\s*(?P<bound>\S+)")


@dataclass(frozen=True, slots=True)
class Expected:
    """The ratio of ``metric``, ``<arm>.<quantity>``, here over the other side must lie in [``low``, ``high``]."""

    metric: str
    low: float
    high: float
    text: str


def parse_expected(texts: Sequence[str]) -> dict[str, Expected]:
    """The expected gains by metric. Raises pytest.UsageError, one line, for a text that is none."""
    found: dict[str, Expected] = {}
    for text in texts:
        match = _FORM.fullmatch(text.strip())
        bound = _number(match["bound"]) if match else None
        if match is None or bound is None:
            raise pytest.UsageError(
                f"--grpo-expect {text!r}: allowed is ARM.QUANTITY>=RATIO or ARM.QUANTITY<=RATIO with a ratio above "
                "zero, e.g. step.tokens_per_second>=1.10"
            )
        low, high = (bound, math.inf) if match["sign"] == ">=" else (0.0, bound)
        if match["metric"] in found:
            raise pytest.UsageError(f"--grpo-expect {text!r}: {match['metric']} is given twice; drop one of them")
        found[match["metric"]] = Expected(match["metric"], low, high, f"{match['sign']} {match['bound']}")
    return found


def _number(text: str) -> float | None:
    """A ratio; None when it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
