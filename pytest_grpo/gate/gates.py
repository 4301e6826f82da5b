"""The gate of a test: it measures arms, judges them by thresholds, and records each verdict with the test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pytest_grpo.agreement import Agreement, close_values
from pytest_grpo.arms import MeasuredArm
from pytest_grpo.gate.comparison import PairedComparison
from pytest_grpo.gate.explain import explain
from pytest_grpo.gate.gate_session import GateSession, ShowProgress
from pytest_grpo.measuring.sampling.rounds import RoundSampler
from pytest_grpo.measuring.sampling.sample import Arm
from pytest_grpo.settings.config import PluginConfig
from pytest_grpo.settings.device import describe_device
from pytest_grpo.settings.thresholds import Threshold
from pytest_grpo.types import Row, Verdict

Inspect = Callable[[Row, int], str]
"""Checks a row beyond its threshold, e.g. against a baseline; returns the problem, or an empty string. The number says
how many rows of the same metric the test had before."""
IsDecided = Callable[[Row, int], bool]
"""Whether more pairs cannot change what ``Inspect`` finds."""
NewComparison = Callable[["Gate", RoundSampler, Agreement, "float | None"], PairedComparison]


@dataclass(slots=True, repr=False)
class Gate:
    """All gates of one test: judges them, and records a row for each.

    A failure raises AssertionError. An inconclusive verdict lets the test go on, and marks it xfail at its end (ini
    ``grpo_inconclusive``).
    """

    config: PluginConfig
    thresholds: Mapping[str, Threshold]
    session: GateSession
    phase: int | None
    properties: list[tuple[str, object]]
    """The test's ``user_properties``."""
    system: str = ""
    laid_over: dict[str, object] = field(default_factory=dict)
    """The settings that this test needs in place of the run's own, by dotted key."""
    show_progress: ShowProgress | None = None
    inspect: Inspect | None = None
    nodeid: str = ""
    is_baseline_decided: IsDecided | None = None
    new_comparison: NewComparison = PairedComparison
    comparisons: list[PairedComparison] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """The verdicts of this test so far."""
    is_closed: bool = False
    """Whether the test has ended, its teardown included: no report takes a verdict any more."""

    def __repr__(self) -> str:
        return f"<gate of {self.nodeid}>" if self.nodeid else "<gate>"  # all fields would fill pages of a traceback

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

    def lay_over(self, settings: Mapping[str, Any]) -> None:
        """Note that this test measures the run with these nested ``settings`` in place of its own."""
        from grpo_core.config.values import flattened

        self.laid_over.update(flattened(settings))

    def check(self, name: str, value: float, *, note: str = "") -> None:
        """Compare a plain number or an exact count with the threshold ``name``, without statistics.

        ``note`` stands beside the value, e.g. who counted it.
        """
        __tracebackhide__ = True
        threshold = self.threshold(name)
        try:
            is_finite, number = math.isfinite(value), float(value)
        except (TypeError, ValueError, OverflowError):
            raise pytest.UsageError(f"{name}: measured {value!r}: allowed is one number, e.g. 0.5") from None
        is_inside = is_finite and threshold.low <= number <= threshold.high
        verdict = Verdict.PASS if is_inside else Verdict.FAIL
        reason = "the value lies outside the threshold" if is_finite else "the value is not finite"
        row = self.record(replace(self.row(threshold, verdict, number, "" if is_inside else reason), note=note))
        if row.verdict == Verdict.FAIL:
            raise AssertionError("\n".join(explain(row)))

    def measure(
        self,
        *,
        agree: Agreement | None = None,
        block_size: int = 1,
        max_cores_of_others: float | None = None,
        **arms: Arm,
    ) -> tuple[MeasuredArm, ...]:
        """The arms, in order, ready to be compared. See the fixture ``grpo_arms``.

        Raises:
            pytest.UsageError: there are no arms, or no ``agree`` that says how to compare their outputs.
        """
        if not arms:
            raise pytest.UsageError("grpo_arms(): no arms; write grpo_arms(agree=..., fast=..., slow=...)")
        if agree is None:
            raise pytest.UsageError(
                "grpo_arms(): agree= is missing; write agree=same_tokens or agree=close_values(...) to compare what "
                "the arms return, agree=nothing_to_check when they return no output"
            )
        if agree is close_values:
            raise pytest.UsageError("grpo_arms(agree=close_values): write agree=close_values(rtol=...)")
        for name, value in {"agree": agree, **arms}.items():
            if not callable(value):
                raise pytest.UsageError(f"grpo_arms({name}={value!r}): allowed is a callable, e.g. {name}=lambda: ...")
        sampler = RoundSampler(arms, self.config.budget_s, block_size, self.session.rng)
        comparison: PairedComparison = self.new_comparison(self, sampler, agree, max_cores_of_others)
        self.comparisons.append(comparison)
        return tuple(MeasuredArm(name, comparison) for name in arms)

    def is_decided(self, row: Row) -> bool:
        """Whether more pairs than those of ``row``, which passes, cannot change what ``inspect`` finds."""
        return self.is_baseline_decided is None or self.is_baseline_decided(row, self._num_before(row))

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
            laid_over=", ".join(f"{key}={value}" for key, value in sorted(self.laid_over.items())),
        )

    def record(self, row: Row) -> Row:
        """Record ``row`` with the test, and return it as recorded.

        A regression from the baseline turns it into a failure. A timing gate does not pass while an exact gate of its
        phase, or of this test, is red.
        """
        if self.is_closed:
            raise pytest.UsageError(
                f"{row.metric}: compared after {self.nodeid} had ended; compare its arms inside that test"
            )
        problem = ""
        if self.inspect is not None and row.verdict != Verdict.FAIL:
            problem = self.inspect(row, self._num_before(row))
        if problem:
            row = replace(row, verdict=Verdict.FAIL.value, reason=problem)
        is_red = row.num_pairs is None and row.verdict == Verdict.FAIL
        if is_red:
            self._note_red(row)
        row = self._if_sound(row)
        self.rows.append(row)
        self.properties.append(row.as_property())
        if is_red:  # the timing gates that passed before it, too
            self._replace_rows([self._if_sound(earlier) for earlier in self.rows])
        return row

    def _num_before(self, row: Row) -> int:
        return sum((earlier.metric, earlier.system) == (row.metric, row.system) for earlier in self.rows)

    def correct(self, row: Row, now: Row) -> None:
        """Put the exact, red row ``now`` in the place of ``row``, which passed."""
        self._note_red(now)
        self._replace_rows([now if earlier is row else earlier for earlier in self.rows])
        self._replace_rows([self._if_sound(earlier) for earlier in self.rows])

    def _note_red(self, row: Row) -> None:
        if row.phase is not None:
            self.session.note_red(row.phase, self.nodeid, row.metric)

    def _if_sound(self, row: Row) -> Row:
        """``row``; a timing gate that passes becomes inconclusive while an exact gate of its phase or test is red."""
        if row.num_pairs is None or row.verdict != Verdict.PASS:
            return row
        where = "the test" if row.phase is None else f"phase {row.phase}"
        red = self.session.red_metrics(row.phase) if row.phase is not None else []
        red = red or [other.metric for other in self.rows if other.num_pairs is None and other.verdict == Verdict.FAIL]
        if not red:
            return row
        reason = f"{where} is not sound: {', '.join(red)} {'is' if len(red) == 1 else 'are'} red"
        return replace(row, verdict=Verdict.INCONCLUSIVE.value, reason=reason)

    def _replace_rows(self, rows: list[Row]) -> None:
        for before, now in zip(self.rows, rows, strict=True):
            if now is not before:
                self.properties[self.properties.index(before.as_property())] = now.as_property()
        self.rows = rows
