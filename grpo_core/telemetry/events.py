"""Events: what happened when, in which run. Files, Axiom, W&B and the panels all show this one stream.

Kinds and their fields are listed in ``columns.py``.
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import orjson

from grpo_core.ledger import spans

Value = str | int | float | bool | None

Record = Mapping[str, Any]
"""An event as its line in the file, read back."""

MAX_TIME_S = 4e9
"""The year 2096. Twice this time in nanoseconds still fits into 64 bits, as OTLP needs it."""

_RESERVED = frozenset({"_time", "time", "id", "kind", "run"})


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in ``run``, at ``time_s`` seconds since 1970 (UTC). No other event has its ``id``."""

    kind: str
    time_s: float
    run: str
    id: str
    fields: Mapping[str, Value]

    def record(self) -> dict[str, Value]:
        """The event as one flat JSON object. ``_time`` is ``time`` in ISO UTC, as Axiom wants it; NaN and infinities
        are null."""
        return finite(self._fields())

    def line(self) -> bytes:
        """``record`` as JSON, with a line end."""
        return line_of(self._fields())

    def _fields(self) -> dict[str, Value]:
        return {
            "_time": iso_utc(self.time_s),
            "time": self.time_s,
            "id": self.id,
            "kind": self.kind,
            "run": self.run,
            **self.fields,
        }


class Sink(Protocol):
    """Where events go. ``write`` is called by one thread at a time."""

    def write(self, event: Event) -> None:
        """Take one event. A sink on a network only queues it."""
        ...

    def flush(self) -> None:
        """Return once the events written so far are delivered, or known to wait for a service that is away."""
        ...

    def begin_close(self) -> None:
        """Begin to deliver what waits. Nothing is written any more, and ``close`` follows: so sinks close side by side,
        and not one after the other."""
        ...

    def close(self) -> None:
        """Deliver what can be delivered now, and release files, threads and connections."""
        ...


class Telemetry:
    """Sends the events of one run to every sink, in one order. Any thread may emit.

    Use as a context manager, or call ``close``. Events emitted after that are ignored, so that a thread which outlives
    the run cannot break it.
    """

    def __init__(self, run: str, sinks: Sequence[Sink]) -> None:
        self.run = run
        self._sinks = tuple(sinks)
        self._session = uuid.uuid4().hex[:16]  # of this process: a run that is resumed has another one
        self._num_events = 0
        self._lock = threading.Lock()
        self._closed = False

    def emit(self, kind: str, /, **fields: Value) -> None:
        """Write one event, now, to every sink."""
        assert _RESERVED.isdisjoint(fields), f"{kind}: a field may not be called {sorted(_RESERVED & set(fields))}"
        with spans.TELEMETRY, self._lock:
            if self._closed:
                return
            self._num_events += 1
            event = Event(kind, time.time(), self.run, f"{self._session}-{self._num_events:06d}", fields)
            for sink in self._sinks:
                sink.write(event)

    def flush(self) -> None:
        """As ``Sink.flush``, for every sink."""
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        """Flush and close every sink. The second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for sink in self._sinks:
            sink.begin_close()
        with ExitStack() as stack:  # a sink that fails to close does not keep the others open
            for sink in reversed(self._sinks):
                stack.callback(sink.close)

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def iso_utc(time_s: float) -> str:
    """As ``2026-01-01T00:00:00.000000Z``. The events of a second share what is slow to write."""
    second = math.floor(time_s)
    microseconds = round((time_s - second) * 1e6)
    if microseconds == 1_000_000:
        second, microseconds = second + 1, 0
    return f"{_second(second)}.{microseconds:06d}Z"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def line_of(record: Record) -> bytes:
    """``record`` as JSON, with a line end; NaN and infinities are null."""
    try:  # a fifth of the time: it has null for NaN by itself
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:  # half a character, or more than 64 bits
        return json.dumps(finite(record)).encode() + b"\n"


def finite(value: Any) -> Any:
    """``value`` with every NaN and infinity in it, at any depth, replaced by None, because JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
