"""The ledger as spans: one trace per step, whatever process or thread worked for it.

Each id is a function of the process that trained, of the step and of the event. So the spans of workers, followers and
rollouts find their trace and their parent without being told, and what is sent twice has the same ids.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grpo_core.ledger.account import OTHER
from grpo_core.ledger.spans import SPANS
from grpo_core.telemetry.events import MAX_TIME_S, Record
from grpo_core.telemetry.otel.attributes import MAX_VALUE, Value, encodable, is_number, nanoseconds
from grpo_core.telemetry.otel.wire import encoded_attributes, part

LOOP = "rl.loop"
NAMES = {"sample": "rl.sample", "train": "rl.train", "publish": "rl.sync", "load": "rl.sync", "swap": "rl.sync"}
"""Of a lane's part -> of the proposed convention. Any other part is ``grpo.<name>``."""

_TRAINER = ("trainer-0", "train")
_TRAIN_COLUMNS = tuple(span.column for span in SPANS if span.name.startswith("train."))
_MAX_INTERVALS = 1_000  # ours have a fifth of it at most

# Fields of a Span. Most are encoded by what is known before, since a step has dozens of spans.
_TRACE_ID, _PARENT, _NAME, _ATTRIBUTES = 1, 4, 5, 9
_KIND = Span(kind=Span.SPAN_KIND_INTERNAL).SerializeToString()
_ID_BYTES = 8
_OWN_ID = Span(span_id=bytes(8)).SerializeToString()[:-8]
_TIMES = struct.Struct("<cQcQ")
_START = Span(start_time_unix_nano=1).SerializeToString()[:1]
_END = Span(end_time_unix_nano=1).SerializeToString()[:1]
_DOUBLE = struct.Struct("<d")


def _seconds_head(name: str) -> bytes:
    """All of an attribute but its eight bytes: the seconds of a span of the ledger."""
    return encoded_attributes(_ATTRIBUTES, {f"grpo.seconds.{name}": 0.5})[:-8]


_SECONDS: Mapping[str, bytes] = {
    **{span.column: _seconds_head(span.name) for span in SPANS},
    "other_s": _seconds_head(OTHER),
}
"""Column of a ``ledger`` event -> the head of an attribute of its window."""


def spans_of(record: Record) -> Iterator[bytes]:
    """The window of a ``ledger`` event, and the parts of its lane, each as an encoded ``Span``; none for an event that
    is not one of ours."""
    try:
        session, step = str(record["id"]).partition("-")[0], int(record["step"])
        start_s, wall_s = float(record["started_s"]), float(record["wall_s"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    if not (0 < start_s < MAX_TIME_S and 0 <= wall_s < MAX_TIME_S and 0 <= step < MAX_VALUE):
        return
    trace, loop_id = part(_TRACE_ID, _id(16, session, step)), _id(8, session, step, LOOP)
    iteration = encoded_attributes(_ATTRIBUTES, {"rl.loop.iteration": step})
    is_loop = is_step(record)
    window_id = loop_id if is_loop else _id(8, record["id"])
    own = b"" if is_loop else part(_PARENT, loop_id)
    named = _of_window(LOOP if is_loop else None, str(record.get("process")), str(record.get("thread")))
    times = _times(start_s, start_s + wall_s)
    yield b"".join((trace, _OWN_ID, window_id, own, named, times, iteration, *_seconds(record)))
    common = trace + part(_PARENT, window_id) + iteration
    lane = _lane(record.get("lane"))
    ids = _ids(len(lane), record["id"])
    for place, (name, at_s, seconds) in enumerate(lane):
        own_id = ids[_ID_BYTES * place : _ID_BYTES * (place + 1)]
        times = _times(start_s + at_s, start_s + at_s + seconds)
        yield b"".join((common, _OWN_ID, own_id, _of_part(name), times))


def is_step(record: Record) -> bool:
    """Whether a ``ledger`` event is the trainer's window of a step: what it does after its last one trains nothing."""
    is_trainer = (record.get("process"), record.get("thread")) == _TRAINER
    return is_trainer and any(record.get(column) for column in _TRAIN_COLUMNS)


def _seconds(record: Record) -> Iterator[bytes]:
    """``grpo.seconds.sample.decode`` and the like say more than the lane, which shows ``sample`` as one."""
    for column, head in _SECONDS.items():
        spent = record.get(column)
        if spent and is_number(spent):
            yield head + _DOUBLE.pack(spent)


@lru_cache(maxsize=256)  # an event of another program may have any
def _of_window(name: str | None, process: str, thread: str) -> bytes:
    places: dict[str, Value] = {"grpo.process": process, "grpo.thread": thread}
    return _named(name or f"grpo.{thread}") + encoded_attributes(_ATTRIBUTES, places)


@lru_cache(maxsize=256)
def _of_part(name: str) -> bytes:
    places: dict[str, Value] = {}
    if name == "publish":
        places = {"rl.sync.source": "trainer", "rl.sync.destination": "store"}
    elif name in ("load", "swap"):
        places = {"rl.sync.source": "store", "rl.sync.destination": "engine"}
    return _named(NAMES.get(name) or f"grpo.{name}") + encoded_attributes(_ATTRIBUTES, places)


def _named(name: str) -> bytes:
    return part(_NAME, encodable(name).encode()) + _KIND


def _times(start_s: float, end_s: float) -> bytes:
    return _TIMES.pack(_START, nanoseconds(start_s), _END, nanoseconds(end_s))


def _lane(text: Any) -> list[tuple[str, float, float]]:
    try:
        parts = orjson.loads(text)[:_MAX_INTERVALS]
        found = [(str(name), float(at_s), float(seconds)) for name, at_s, seconds in parts]
        if all(0 <= at_s < MAX_TIME_S and 0 <= seconds < MAX_TIME_S for _, at_s, seconds in found):
            return found
    except (TypeError, ValueError, LookupError, OverflowError, RecursionError):
        pass  # an event of another program
    return []


def _ids(num_spans: int, event_id: object) -> bytes:
    """The ids of the parts of an event's lane, one behind the other."""
    return hashlib.shake_128(f"{event_id}/parts".encode(errors="replace")).digest(_ID_BYTES * num_spans)


def _id(num_bytes: int, *parts: object) -> bytes:
    return hashlib.sha256("/".join([str(part) for part in parts]).encode(errors="replace")).digest()[:num_bytes]
