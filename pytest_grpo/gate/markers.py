"""The marker form of a threshold: ``@pytest.mark.grpo_threshold("tokens_per_second", at_least=1.30)``."""

from __future__ import annotations

import pytest

from pytest_grpo.arms import IN_TEST, Quantity
from pytest_grpo.gate.gates import Gate
from pytest_grpo.settings.thresholds import marker_thresholds


def decide_markers(item: pytest.Item, gate: Gate | None) -> None:
    """Decide the marker thresholds of ``item`` that the test has not decided itself: first arm over second, in
    each comparison of two arms or more.

    Raises:
        pytest.UsageError: the test measured fewer than two arms.
    """
    __tracebackhide__ = True
    for name in marker_thresholds(item):
        if gate is not None and any(row.metric == name and row.source != IN_TEST for row in gate.rows):
            continue  # by grpo_threshold(name); an assertion with a bound of its own decides something else
        comparisons = [each for each in gate.comparisons if len(each.sampler.arms) > 1] if gate is not None else []
        if gate is None or not comparisons:
            raise pytest.UsageError(
                f"marker grpo_threshold({name!r}): it needs two measured arms; call grpo_arms(agree=..., a=a, b=b)"
            )
        for comparison in comparisons:
            first, second = (Quantity(comparison, arm, name) for arm in list(comparison.sampler.arms)[:2])
            decide = comparison.count if first.is_count else comparison.decide
            decide(first, second, gate.threshold(name))
