"""Events as metrics. Names are those of the proposed ``rl.*`` convention; what it has none for is ``grpo.*``.

Durations and counts are cumulative since the first event that the process sent, so a resumed run is a reset, as
OpenTelemetry wants it. Figures are gauges, each with the time of its event.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from grpo_core.telemetry.columns import FIGURES
from grpo_core.telemetry.events import MAX_TIME_S, Record
from grpo_core.telemetry.otel.attributes import MAX_COUNT, attributes, is_number, nanoseconds
from grpo_core.telemetry.otel.spans import is_step
from grpo_core.telemetry.otel.wire import encoded_attributes, part

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]  # a metric's name and the attributes of one of its series
Series = TypeVar("Series")


@dataclass(frozen=True, slots=True)
class Source:
    """``field`` of events of ``kind``, times ``factor``, is a value of ``metric``."""

    metric: str
    kind: str
    field: str
    factor: float = 1.0
    labels: Labels = ()


DURATIONS = (
    Source("rl.loop.duration", "ledger", "wall_s"),
    Source("rl.sample.duration", "rollout", "duration_s"),
    Source("rl.reward.duration", "reward", "reward_s"),
    Source("rl.train.duration", "train_step", "step_s"),
    Source("rl.sync.duration", "adapter_publish", "publish_ms", 1e-3, (("rl.sync.destination", "store"),)),
    Source("rl.sync.duration", "adapter_load", "load_ms", 1e-3, (("rl.sync.destination", "engine"),)),
)
COUNTS = (
    Source("rl.sample.samples", "rollout", "num_completions"),
    Source("rl.sample.episodes", "rollout", "num_trajectories"),
    Source("rl.train.tokens", "token_ledger", "num_trained_tokens"),
)
STEPS = "rl.train.steps"
GAUGES = (
    Source("rl.train.loss", "train_step", "loss", labels=(("rl.loss.type", "policy"),)),
    Source("rl.train.loss", "train_step", "kl", labels=(("rl.loss.type", "kl_divergence"),)),
    Source("rl.environment.reward.mean", "train_step", "reward_mean"),
    Source("rl.train.mfu", "figures", "mfu"),
    *(Source(f"grpo.{name}", "figures", name) for name in FIGURES if name != "mfu"),
    *(Source(f"grpo.{name}", "train_step", name) for name in ("entropy", "grad_norm", "policy_lag_steps")),
)
_NAME, _UNIT, _GAUGE, _POINTS, _LABELS = 1, 3, 5, 1, 7  # fields of a Metric, of a Gauge, and of a NumberDataPoint
_POINT = struct.Struct("<cdcQ")
_VALUE = NumberDataPoint(as_double=1.0).SerializeToString()[:1]
_TIME = NumberDataPoint(time_unix_nano=1).SerializeToString()[:1]
EPISODE_LENGTH = "rl.environment.episode.length.mean"
UNITS = {"duration": "s", "tokens": "{token}", "samples": "{sample}", "episodes": "{episode}", "steps": "{step}"}


@dataclass
class Durations:
    """One series of a histogram."""

    count: int = 0
    sum_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, seconds: float) -> None:
        self.count += 1
        self.sum_s += seconds
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1


@dataclass
class Totals:
    """What was counted since ``start_ns``, up to the event of ``end_ns``."""

    start_ns: int = 0
    end_ns: int = 0
    counts: dict[Key, int] = field(default_factory=dict)
    durations: dict[Key, Durations] = field(default_factory=dict)

    def after(self, records: Sequence[Record]) -> Totals:
        """With ``records`` as well. This one stays, for the case that they do not arrive."""
        copies = {key: replace(each, buckets=each.buckets.copy()) for key, each in self.durations.items()}
        found = Totals(self.start_ns, self.end_ns, self.counts.copy(), copies)
        for record in records:
            if (time_ns := _time_ns(record)) is not None:
                found.start_ns = found.start_ns or time_ns
                found.end_ns = max(found.end_ns, time_ns)
                found._add(record)
        return found

    def _add(self, record: Record) -> None:
        for key, seconds in _values(_DURATIONS, record):
            if key[0] != "rl.loop.duration" or is_step(record):
                self.durations.setdefault(key, Durations()).add(seconds)
        for key, count in _values(_COUNTS, record):
            self.counts[key] = min(self.counts.get(key, 0) + int(count), MAX_COUNT)
        if record["kind"] == "train_step":
            self.counts[STEPS, ()] = self.counts.get((STEPS, ()), 0) + 1

    def metrics(self) -> Iterator[bytes]:
        """Each metric once, with its series, as an encoded ``Metric``."""
        cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        for name, counts in _by_name(self.counts).items():
            points = [
                NumberDataPoint(
                    start_time_unix_nano=self.start_ns,
                    time_unix_nano=self.end_ns,
                    as_int=count,
                    attributes=attributes(dict(labels)),
                )
                for labels, count in counts
            ]
            counter = Sum(data_points=points, aggregation_temporality=cumulative, is_monotonic=True)
            yield Metric(name=name, unit=_unit(name), sum=counter).SerializeToString()
        for name, durations in _by_name(self.durations).items():
            found = [
                HistogramDataPoint(
                    start_time_unix_nano=self.start_ns,
                    time_unix_nano=self.end_ns,
                    count=each.count,
                    sum=each.sum_s,
                    bucket_counts=each.buckets,
                    explicit_bounds=BOUNDS_S,
                    attributes=attributes(dict(labels)),
                )
                for labels, each in durations
            ]
            histogram = Histogram(data_points=found, aggregation_temporality=cumulative)
            yield Metric(name=name, unit=_unit(name), histogram=histogram).SerializeToString()


def gauges(records: Sequence[Record]) -> Iterator[bytes]:
    """A point for each figure of each of ``records``, as encoded ``Metric``s."""
    points: dict[str, list[bytes]] = {}
    for record in records:
        time_ns = _time_ns(record)
        if time_ns is None:
            continue
        for (name, labels), value in (*_values(_GAUGES, record), *_episode_length(record)):
            point = _POINT.pack(_VALUE, value, _TIME, time_ns) + _labels(labels)
            points.setdefault(name, []).append(part(_POINTS, point))
    for name, found in points.items():
        head = part(_NAME, name.encode()) + part(_UNIT, _unit(name).encode())
        yield head + part(_GAUGE, b"".join(found))


@lru_cache
def _labels(labels: Labels) -> bytes:
    return encoded_attributes(_LABELS, dict(labels))


def _by_kind(sources: Sequence[Source]) -> dict[str, list[Source]]:
    found: dict[str, list[Source]] = {}
    for source in sources:
        found.setdefault(source.kind, []).append(source)
    return found


_DURATIONS, _COUNTS, _GAUGES = _by_kind(DURATIONS), _by_kind(COUNTS), _by_kind(GAUGES)


def _values(sources: Mapping[str, Sequence[Source]], record: Record) -> Iterator[tuple[Key, float]]:
    kind = record["kind"]
    for source in sources.get(kind, ()) if isinstance(kind, str) else ():
        value = record.get(source.field)
        if is_number(value):
            labels = source.labels
            if kind == "reward":
                labels = (("grpo.reward.function", str(record.get("function"))),)
            yield (source.metric, labels), value * source.factor


def _episode_length(record: Record) -> Iterator[tuple[Key, float]]:
    """Turns per episode of a rollout."""
    turns, episodes = record.get("num_completions"), record.get("num_trajectories")
    if record["kind"] == "rollout" and is_number(turns) and is_number(episodes) and episodes > 0:
        yield (EPISODE_LENGTH, ()), turns / episodes


def _time_ns(record: Record) -> int | None:
    time_s = record.get("time")
    return nanoseconds(time_s) if is_number(time_s) and 0 < time_s < MAX_TIME_S else None


def _by_name(series: Mapping[Key, Series]) -> dict[str, list[tuple[Labels, Series]]]:
    found: dict[str, list[tuple[Labels, Series]]] = {}
    for (name, labels), value in series.items():
        found.setdefault(name, []).append((labels, value))
    return found


def _unit(name: str) -> str:
    if name.endswith("_s"):
        return "s"
    return UNITS.get(name.rpartition(".")[2], "1")
