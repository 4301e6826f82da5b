"""Gates: a test measures through one, and the threshold of that name decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from pytest_grpo.config import PluginConfig, describe_device
from pytest_grpo.measure import Arm, Pairs, Progress, Sample, interleave
from pytest_grpo.report import Row, describe_measured
from pytest_grpo.stats import RatioEstimate, estimate_ratio, summarise
from pytest_grpo.thresholds import Threshold, Verdict, format_number, judge


@dataclass(frozen=True, slots=True, repr=False)
class Gate:
    """Measures, compares with the threshold of that name, and records the verdict with the test.

    Each method raises AssertionError on ``fail``. On ``inconclusive`` it marks the test xfail, or raises too with the
    ini ``grpo_inconclusive = fail``.
    """

    config: PluginConfig
    thresholds: Mapping[str, Threshold]
    properties: list[tuple[str, object]]
    """The test's ``user_properties``."""
    progress: Progress | None = None

    def __repr__(self) -> str:
        return f"<Gate with {len(self.thresholds)} thresholds>"  # failures show it; the fields would fill pages

    def speedup(self, name: str, *, fast: Arm, slow: Arm, pairs: int | None = None, warmup: int = 1) -> RatioEstimate:
        """The throughput (quantity per second) of ``fast`` over that of ``slow``: above one is faster.

        An arm returns a ``Sample`` of what it measured, or None to be timed as one unit. The arms run in interleaved
        ``pairs`` (default: ``--grpo-pairs``) after ``warmup`` unmeasured runs of each.
        """
        __tracebackhide__ = True
        return self._compare(name, {"fast": fast, "slow": slow}, "fast over slow", pairs, warmup)

    def cost(self, name: str, *, of: Arm, over: Arm, pairs: int | None = None, warmup: int = 1) -> RatioEstimate:
        """The seconds per quantity of ``of`` over those of ``over``: 1.02 is two percent more. Else as ``speedup``."""
        __tracebackhide__ = True
        # Seconds per quantity of one over the other is the throughput of the other over the one.
        return self._compare(name, {"over": over, "of": of}, "time of arm 'of' over arm 'over'", pairs, warmup)

    def estimate(self, name: str, values: Sequence[float]) -> RatioEstimate:
        """The median of ``values`` measured together, e.g. forward over backward time of each step; all above zero."""
        __tracebackhide__ = True
        threshold = self._threshold(name)
        estimate = estimate_ratio(values)
        self._decide(threshold, estimate, f"of {len(values)} values")
        return estimate

    def check(self, name: str, value: float) -> None:
        """A plain number, or an exact count."""
        __tracebackhide__ = True
        threshold = self._threshold(name)
        if not math.isfinite(value):
            raise ValueError(f"{name}: measured {value!r}, which is no finite number; check what was measured")
        self._decide(threshold, float(value), "")

    def _compare(self, name: str, arms: dict[str, Arm], what: str, pairs: int | None, warmup: int) -> RatioEstimate:
        __tracebackhide__ = True
        threshold = self._threshold(name)
        (first_name, first), (second_name, second) = arms.items()
        measured = interleave(
            first,
            second,
            pairs=self.config.num_pairs if pairs is None else pairs,
            warmup=warmup,
            names=(first_name, second_name),
            progress=self.progress,
        )
        estimate = summarise(measured)
        speeds = ", ".join(
            f"{arm} {format_number(_median_speed(samples))}/s" for arm, samples in _arms(measured, arms).items()
        )
        self._decide(threshold, estimate, f"{what} ({speeds})", _arms(measured, arms))
        return estimate

    def _threshold(self, name: str) -> Threshold:
        if name not in self.thresholds:
            raise pytest.UsageError(
                f"no threshold {name!r} in {self.config.thresholds_path}; add it there, or use one of "
                f"{', '.join(sorted(self.thresholds))}"
            )
        return self.thresholds[name]

    def _decide(
        self,
        threshold: Threshold,
        measured: float | RatioEstimate,
        what: str,
        arms: Mapping[str, Sequence[Sample]] | None = None,
    ) -> None:
        __tracebackhide__ = True
        verdict = judge(threshold, measured)
        row = _row(threshold, measured, verdict, describe_device(self.config.profile), arms)
        self.properties.append(row.as_property())
        if verdict is Verdict.PASS:
            return
        message = _explain(row, what)
        if verdict is Verdict.INCONCLUSIVE and self.config.inconclusive == "xfail":
            pytest.xfail(message)
        raise AssertionError(message)


def _arms(pairs: Pairs, names: Sequence[str] | Mapping[str, Arm]) -> dict[str, tuple[Sample, ...]]:
    return dict(zip(names, (pairs.a, pairs.b), strict=True))


def _median_speed(samples: Sequence[Sample]) -> float:
    return estimate_ratio([sample.per_second for sample in samples]).median


def _row(
    threshold: Threshold,
    measured: float | RatioEstimate,
    verdict: Verdict,
    device: str,
    arms: Mapping[str, Sequence[Sample]] | None,
) -> Row:
    samples = {name: [[s.quantity, s.seconds] for s in taken] for name, taken in (arms or {}).items()}
    row = Row(
        metric=threshold.name,
        phase=threshold.phase,
        measured=measured.median if isinstance(measured, RatioEstimate) else measured,
        threshold=str(threshold),
        unit=threshold.unit,
        verdict=verdict.value,
        device=device,
        arms=samples or None,
    )
    if not isinstance(measured, RatioEstimate):
        return row
    return replace(
        row,
        low=measured.low,
        high=measured.high,
        confidence=measured.confidence,
        num_pairs=measured.num_pairs,
    )


def _explain(row: Row, what: str) -> str:
    """Everything a reader needs to judge the verdict, in one line."""
    parts = [f"{row.metric}: {row.verdict}: measured {describe_measured(row)}", what]
    if row.num_pairs is not None and row.confidence is not None:
        pairs = "1 pair" if row.num_pairs == 1 else f"{row.num_pairs} pairs"
        parts.append(f"median of {pairs} with its {100 * row.confidence:.1f} % interval")
    parts += [f"threshold {row.threshold}", f"device {row.device}"]
    return "; ".join(part for part in parts if part)
