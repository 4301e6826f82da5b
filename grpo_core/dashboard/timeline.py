"""The last steps as lanes: what each thread did when, with its waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.dashboard.values import number, text
from grpo_core.home import parse_json
from grpo_core.telemetry.events import Record

NUM_STEPS = 8
_MAX_SPANS = 600
_SHORTEST_GAP_S = 1e-3
_LAST_S = 1e11
"""Later times are none: the year 5138."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a thread did. Times are seconds since 1970."""

    name: str
    start_s: float
    end_s: float


def timeline_json(recent: Sequence[Record]) -> dict[str, Any]:
    """The lanes of the last steps, from the first of them on, and where each step ended."""
    ends = [(int(each["step"]), each["time"]) for each in recent if each["kind"] == "train_step" and _is_timed(each)]
    ends = ends[-NUM_STEPS - 1 :]
    if not ends:
        return {"lanes": [], "steps": []}
    lanes = _lanes_of_ledger(recent) or _lanes_of_events(recent)
    start_s = ends[0][1] if len(ends) > 1 else min(span.start_s for spans in lanes.values() for span in spans)
    shown = {name: [span for span in spans if span.end_s > start_s][-_MAX_SPANS:] for name, spans in lanes.items()}
    return {
        "start_s": start_s,
        "steps": [{"step": step, "end_s": round(time_s - start_s, 6)} for step, time_s in ends],
        "lanes": [{"name": name, "spans": _relative(spans, start_s)} for name, spans in shown.items() if spans],
    }


def _relative(spans: Iterable[Span], start_s: float) -> list[list[Any]]:
    return [[span.name, round(max(span.start_s - start_s, 0.0), 6), round(span.end_s - start_s, 6)] for span in spans]


def _lanes_of_ledger(recent: Sequence[Record]) -> dict[str, list[Span]]:
    """The lanes by thread, or by process and thread where there are several processes."""
    entries = [record for record in recent if record["kind"] == "ledger" and _is_timed(record)]
    is_alone = len({str(record.get("process")) for record in entries}) == 1
    lanes: dict[str, list[Span]] = {}
    for record in entries:
        thread = text(record.get("thread"))
        name = thread if is_alone else f"{text(record.get('process'))} {thread}"
        lanes.setdefault(name, []).extend(_spans_of(record))
    return {name: spans for name, spans in lanes.items() if spans}


def _spans_of(record: Record) -> Iterator[Span]:
    """The intervals that a ``ledger`` event has as JSON text."""
    began_s = number(record.get("started_s"))
    try:
        intervals = parse_json(record.get("lane") or "[]")
    except (ValueError, TypeError):
        return
    for interval in intervals if isinstance(intervals, list) and began_s is not None else ():
        if isinstance(interval, list) and len(interval) == 3:
            name, start_s, seconds = text(interval[0]), number(interval[1]), number(interval[2])
            if name and start_s is not None and seconds is not None and 0 <= seconds < _LAST_S:
                assert began_s is not None
                yield Span(name, began_s + start_s, began_s + start_s + seconds)


def _lanes_of_events(recent: Sequence[Record]) -> dict[str, list[Span]]:
    """Without a ledger: a step and a rollout end with their events; what lies between two of them is a wait."""
    lanes: Mapping[str, list[Span]] = {"train": [], "rollout": []}
    for record in filter(_is_timed, recent):
        time_s = record["time"]
        if record["kind"] == "train_step":
            publish_s = min(_seconds(record, "publish_ms") / 1000, _seconds(record, "step_s"))
            _append(
                lanes["train"], Span("train", time_s - _seconds(record, "step_s"), time_s - publish_s), "wait.batch"
            )
            lanes["train"].append(Span("publish", time_s - publish_s, time_s))
        elif record["kind"] == "rollout":
            _append(lanes["rollout"], Span("sample", time_s - _seconds(record, "duration_s"), time_s), "wait.room")
        elif record["kind"] == "adapter_load":
            loaded_s = (_seconds(record, "load_ms") + _seconds(record, "swap_ms")) / 1000
            _append(lanes["rollout"], Span("load", time_s - loaded_s, time_s), "wait.room")
    return {name: spans for name, spans in lanes.items() if spans}


def _append(spans: list[Span], span: Span, wait: str) -> None:
    last_s = spans[-1].end_s if spans else span.start_s
    if span.start_s - last_s > _SHORTEST_GAP_S:
        spans.append(Span(wait, last_s, span.start_s))
    spans.append(Span(span.name, max(span.start_s, last_s), max(span.end_s, last_s)))


def _is_timed(record: Record) -> bool:
    time_s = number(record.get("time"))
    return time_s is not None and 0 <= time_s < _LAST_S and type(record.get("step", 0)) is int


def _seconds(record: Record, field: str) -> float:
    value = number(record.get(field))
    return value if value is not None and 0 <= value < _LAST_S else 0.0
