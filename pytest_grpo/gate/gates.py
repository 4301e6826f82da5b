"""The gate of a test: it measures arms, judges them by thresholds, and records each verdict with the test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from pytest_grpo.agreement import Agreement
from pytest_grpo.arms import MeasuredArm
from pytest_grpo.gate.comparison import PairedComparison
from pytest_grpo.gate.explain import explain
from pytest_grpo.gate.gate_session import GateSession, ShowProgress
from pytest_grpo.measuring.sampler import Arm, Sampler
from pytest_grpo.measuring.stats import median_ratio
from pytest_grpo.settings.config import PluginConfig
from pytest_grpo.settings.device import describe_device
from pytest_grpo.settings.thresholds import Threshold
from pytest_grpo.types import Row, Verdict

Inspect = Callable[[Row], str]
"""Checks a row beyond its threshold, e.g. against a baseline; returns the problem, or an empty string."""
IsSettled = Callable[[Row], bool]
"""Whether more pairs cannot change what ``Inspect`` finds."""


@dataclass(slots=True, repr=False)
class Gate:
    """The gate of one test. A failure raises AssertionError; an inconclusive verdict marks the test xfail
    (ini ``grpo_inconclusive``)."""

    config: PluginConfig
    thresholds: Mapping[str, Threshold]
    session: GateSession
    phase: int | None
    properties: list[tuple[str, object]]
    """The test's ``user_properties``."""
    system: str = "grpo_core"
    show_progress: ShowProgress | None = None
    inspect: Inspect | None = None
    is_row_settled: IsSettled | None = None
    comparisons: list[PairedComparison] = field(default_factory=list)
    judged: set[str] = field(default_factory=set)
    """The metrics that have a verdict in this test."""

    def __repr__(self) -> str:
        return f"<Gate with {len(self.thresholds)} thresholds>"  # in assertion messages all fields would fill pages

    def threshold(self, name: str) -> Threshold:
        """The threshold of that name.

        Raises:
            pytest.UsageError: there is none.
        """
        if name not in self.thresholds:
            allowed = ", ".join(sorted(self.thresholds))
            raise pytest.UsageError(
                f"no threshold {name!r} in {self.config.thresholds_path}; add it there, or use one of {allowed}"
            )
        return self.thresholds[name]

    def check(self, name: str, value: float) -> None:
        """Compare a plain number or an exact count with the threshold ``name``, without statistics."""
        __tracebackhide__ = True
        threshold = self.threshold(name)
        if not math.isfinite(value):
            raise pytest.UsageError(f"{name}: measured {value!r}: allowed are finite numbers; check what was measured")
        verdict = Verdict.PASS if threshold.low <= value <= threshold.high else Verdict.FAIL
        reason = "" if verdict is Verdict.PASS else "the value lies outside the threshold"
        row = self.row(threshold, verdict, float(value), reason)
        if not self.record(row):
            raise AssertionError("\n".join(explain(row)))

    def measure(
        self,
        *,
        agree: Agreement,
        block_size: int = 1,
        max_cores_of_others: float | None = None,
        **arms: Arm,
    ) -> tuple[MeasuredArm, ...]:
        """The arms, in order, ready to be compared. See ``pytest_grpo.session.fixtures.grpo_arms``."""
        if not arms:
            raise pytest.UsageError("grpo_arms(): no arms; write grpo_arms(agree=..., fast=..., slow=...)")
        sampler = Sampler(arms, self.config.budget_s, block_size, self.session.rng)
        comparison = PairedComparison(self, sampler, agree, max_cores_of_others)
        self.comparisons.append(comparison)
        return tuple(MeasuredArm(name, comparison) for name in arms)

    def is_settled(self, threshold: Threshold, ratios: Sequence[float]) -> bool:
        """Whether pairs beyond these, which pass, cannot change what ``inspect`` finds."""
        if self.is_row_settled is None:
            return True
        row = self.row(threshold, Verdict.PASS, median_ratio(ratios), "")
        return self.is_row_settled(replace(row, ratios=list(ratios)))

    def row(self, threshold: Threshold, verdict: Verdict, measured: float, reason: str) -> Row:
        """The row of a verdict on ``measured``, not yet recorded."""
        return Row(
            metric=threshold.name,
            phase=threshold.phase if threshold.phase is not None else self.phase,
            kind=threshold.kind,
            bound_low=threshold.low if math.isfinite(threshold.low) else None,
            bound_high=threshold.high if math.isfinite(threshold.high) else None,
            threshold=str(threshold),
            source=threshold.source,
            unit=threshold.unit,
            verdict=verdict.value,
            reason=reason,
            measured=measured,
            device=describe_device(self.config.profile),
            system=self.system,
        )

    def record(self, row: Row) -> bool:
        """Record ``row`` with the test; True for a pass. An inconclusive row marks the test xfail, if configured so."""
        __tracebackhide__ = True
        problem = self.inspect(row) if self.inspect is not None and row.verdict != Verdict.FAIL else ""
        if problem:
            row = replace(row, verdict=Verdict.FAIL.value, reason=problem)
        self.properties.append(row.as_property())
        self.judged.add(row.metric)
        if row.verdict == Verdict.INCONCLUSIVE and self.config.inconclusive != "fail":
            pytest.xfail(f"{row.metric}: inconclusive: {row.reason}")
        return row.verdict == Verdict.PASS
