"""The ledger as spans: one trace per step, whatever process or thread worked for it.

Each id is a function of the process that trained, of the step and of the event. So the spans of workers, followers and
rollouts find their trace and their parent without being told, and what is sent twice has the same ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grpo_core.ledger.account import OTHER
from grpo_core.ledger.spans import SPANS
from grpo_core.telemetry.events import Record
from grpo_core.telemetry.otel.attributes import (
    MAX_TIME_S,
    MAX_VALUE,
    Value,
    attributes,
    encodable,
    is_number,
    nanoseconds,
)

LOOP = "rl.loop"
NAMES = {"sample": "rl.sample", "train": "rl.train", "publish": "rl.sync", "load": "rl.sync", "swap": "rl.sync"}
"""Of a lane's part -> of the proposed convention. Any other part is ``grpo.<name>``."""

_TRAINER = ("trainer-0", "train")
_TRAIN_COLUMNS = tuple(span.column for span in SPANS if span.name.startswith("train."))
_MAX_INTERVALS = 1_000  # ours have a fifth of it at most


def spans_of(record: Record) -> Iterator[Span]:
    """The window of a ``ledger`` event, and the parts of its lane; none for an event that is not one of ours."""
    try:
        session, step = str(record["id"]).partition("-")[0], int(record["step"])
        start_s, wall_s = float(record["started_s"]), float(record["wall_s"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    if not (0 < start_s < MAX_TIME_S and 0 <= wall_s < MAX_TIME_S and 0 <= step < MAX_VALUE):
        return
    trace_id, loop_id = _id(16, session, step), _id(8, session, step, LOOP)
    is_loop = is_step(record)
    window = Span(
        trace_id=trace_id,
        span_id=loop_id if is_loop else _id(8, record["id"]),
        parent_span_id=b"" if is_loop else loop_id,
        name=LOOP if is_loop else encodable(f"grpo.{record.get('thread')}"),
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=nanoseconds(start_s),
        end_time_unix_nano=nanoseconds(start_s + wall_s),
        attributes=attributes(_of_window(record, step)),
    )
    yield window
    for place, (name, at_s, seconds) in enumerate(_lane(record.get("lane"))):
        yield Span(
            trace_id=trace_id,
            span_id=_id(8, record["id"], place),
            parent_span_id=window.span_id,
            name=NAMES.get(name) or encodable(f"grpo.{name}"),
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=nanoseconds(start_s + at_s),
            end_time_unix_nano=nanoseconds(start_s + at_s + seconds),
            attributes=attributes({"rl.loop.iteration": step, **_of_part(name)}),
        )


def is_step(record: Record) -> bool:
    """Whether a ``ledger`` event is the trainer's window of a step: what it does after its last one trains nothing."""
    is_trainer = (record.get("process"), record.get("thread")) == _TRAINER
    return is_trainer and any(record.get(column) for column in _TRAIN_COLUMNS)


def _of_window(record: Record, step: int) -> dict[str, Value]:
    """``grpo.seconds.sample.decode`` and the like say more than the lane, which shows ``sample`` as one."""
    named = {span.name: record.get(span.column) for span in SPANS} | {OTHER: record.get("other_s")}
    seconds = {f"grpo.seconds.{name}": float(spent) for name, spent in named.items() if is_number(spent) and spent}
    places = {f"grpo.{field}": str(record.get(field)) for field in ("process", "thread")}
    return {"rl.loop.iteration": step, **places, **seconds}


def _of_part(name: str) -> dict[str, Value]:
    if name == "publish":
        return {"rl.sync.source": "trainer", "rl.sync.destination": "store"}
    if name in ("load", "swap"):
        return {"rl.sync.source": "store", "rl.sync.destination": "engine"}
    return {}


def _lane(text: Any) -> list[tuple[str, float, float]]:
    try:
        parts = json.loads(text)[:_MAX_INTERVALS]
        found = [(str(name), float(at_s), float(seconds)) for name, at_s, seconds in parts]
        if all(0 <= at_s < MAX_TIME_S and 0 <= seconds < MAX_TIME_S for _, at_s, seconds in found):
            return found
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # an event of another program
    return []


def _id(num_bytes: int, *parts: object) -> bytes:
    return hashlib.sha256("/".join(map(str, parts)).encode(errors="replace")).digest()[:num_bytes]
