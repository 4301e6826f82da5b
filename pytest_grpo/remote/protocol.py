"""The protocol between a session and a worker, the process or container that runs a phase: a request, then events.

All of it is JSON text. Imports only the standard library, so that a worker starts fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

MAX_MESSAGE_BYTES = 1 << 20
"""A longer event is sent in parts: Modal stores messages above 2 MiB separately."""

Event = dict[str, Any]
"""Something that happened on the worker. ``event`` is one of:

- ``begun``: the worker has started; ``call_id`` is Modal's id of the call. A second one means that it restarted.
- ``collected``: pytest has collected; ``missing`` and ``extra`` node ids, ``differing`` code, collection ``errors``,
  ``fingerprint`` and ``machine_info`` of the machine
- ``start``: the test ``nodeid`` begins
- ``report``: ``data`` is a serialised test report
- ``warning``: ``message``, ``category`` (class name), ``when``, ``nodeid``, ``filename``, ``lineno``, ``location``
- ``benchmark``: ``nodeid`` and an ``entry`` of pytest-benchmark
- ``findings``: what a comparison of two versions has found so far, see ``session.findings``
- ``done``: the test ``nodeid`` has ended, and all of its events were sent
- ``finish``: pytest's session ended; without this event its process was killed
- ``end``: the last event: ``exit_code`` of pytest and ``output_tail``, the end of its output
- ``state``: ``text`` for the terminal: queued, running, ...
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One phase to run. Paths are relative to the root of the project."""

    phase: int
    node_ids: tuple[str, ...]
    """What to run, in this order."""
    collected: tuple[str, ...]
    """All tests of the phase that this session collected, from files that it collected completely."""
    arguments: tuple[str, ...]
    """pytest's options."""
    code: Mapping[str, str]
    """See ``project_files.code_digests``."""
    root: str
    """The project's folder in this session. The worker writes it in place of its own in all texts."""
    baselines: tuple[str, ...] = ()
    """The file of ``--grpo-compare`` and those of other sessions of the same code, as texts."""
    wants_machine_info: bool = False
    """Whether pytest-benchmark's machine description, which is slow, is needed."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        """
        Raises:
            RemoteRefusedError: it is no request.
        """
        try:
            fields = json.loads(text)
            for name in ("node_ids", "collected", "arguments", "baselines"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RemoteRefusedError(f"not a request of a session ({type(error).__name__})") from error


class RemoteLostError(RuntimeError):
    """The worker was lost. This is not a verdict: a new worker is tried, and in the end each test without a result is
    an error. ``may_retry`` is false when a new worker would fail in the same way."""

    def __init__(self, reason: str, *, may_retry: bool = True) -> None:
        super().__init__(reason)
        self.may_retry = may_retry


class RemoteRefusedError(RuntimeError):
    """Workers cannot be started at all, e.g. for lack of credentials. The session stops with this one line."""


class Call(Protocol):
    """A running phase."""

    def __iter__(self) -> Iterator[Event]:
        """The events as they happen; the last one is ``end``. They repeat when the worker restarts by itself.

        Raises:
            RemoteLostError: the worker was lost; the events so far were yielded.
            RemoteRefusedError: no worker can be started.
        """
        ...

    def cancel(self) -> None:
        """Stop the phase and all of its processes. Thread-safe, at any time; the events end soon after."""
        ...


class Remote(Protocol):
    """Runs phases on workers."""

    @property
    def max_side_by_side(self) -> int:
        """How many phases may run at once. 1 when they share a machine and would disturb each other's timings."""
        ...

    def start(self, request: Request) -> Call: ...

    def close(self) -> None:
        """Release all resources; all calls have ended."""
        ...


def encode(line: str) -> Iterator[str]:
    """An event, given as a line of ASCII JSON, as one message or in parts."""
    if len(line) <= MAX_MESSAGE_BYTES:
        yield line
        return
    # JSON within JSON: escaped quotes and backslashes take up to twice the space.
    size = MAX_MESSAGE_BYTES // 2 - 100
    for start in range(0, len(line), size):
        is_last = start + size >= len(line)
        yield json.dumps({"part": start, "is_last": is_last, "text": line[start : start + size]})


def number_texts(texts: Iterable[str], worker_id: str) -> Iterator[str]:
    """Each text after a line with the worker's id and a sequence number. Each start of a worker has a new id.

    Modal restarts a generator when its container is lost and drops as many chunks as had arrived before, as if the
    second run repeated the first. A gap in the numbers reveals that.
    """
    for number, text in enumerate(texts):
        # Events of earlier detached runs on disk have the key 'place'.
        yield f"{json.dumps({'place': worker_id, 'number': number})}\n{text}"


class Decoder:
    """Reassembles events from messages."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._worker_id = ""
        self._next_number = 0

    def decode(self, messages: Iterable[str]) -> Iterator[Event]:
        """The events in ``messages``.

        Raises:
            RemoteLostError: a numbered text is missing, or a message is none of a worker's.
        """
        for message in messages:
            try:
                event = self._event(message)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                reason = f"its container sent what is no message of a worker ({type(error).__name__})"
                raise RemoteLostError(reason) from error
            if event is not None:
                yield event

    def _event(self, message: str) -> Event | None:
        """The event that ``message`` completes; None where it completes none."""
        data = json.loads(message)
        if not isinstance(data, dict):
            raise ValueError("not an object")
        if "place" in data:
            self._check_number(data["place"], data["number"])
            return None
        if "part" not in data:
            return data
        if data["part"] == 0:
            self._parts.clear()  # the worker restarted in the middle of an event
        self._parts.append(str(data["text"]))
        if not data["is_last"]:
            return None
        text = "".join(self._parts)
        self._parts.clear()
        return json.loads(text)

    def _check_number(self, worker_id: str, number: int) -> None:
        if worker_id != self._worker_id:
            self._worker_id, self._next_number = worker_id, 0
        if number != self._next_number:
            raise RemoteLostError("its container was replaced in the middle of the run")
        self._next_number += 1


def problem_of(event: Event, phase: int) -> str:
    """How the worker's ``collected`` event differs from this session, in one line; empty when it does not."""
    differences: tuple[tuple[str, str, str], ...] = (
        ("differing", "the code there differs", "save your files and do not change them while phases run"),
        ("missing", "not collected there", "make collection depend on the code alone"),
        ("extra", "collected only there", "make collection depend on the code alone"),
    )
    for name, what, advice in differences:
        if event[name]:
            shown = ", ".join(event[name][:3]) + (f" and {len(event[name]) - 3} more" if len(event[name]) > 3 else "")
            return f"phase {phase}: {what}: {shown}{_first_error(event['errors'])}; {advice}"
    return ""


def _first_error(errors: list[str]) -> str:
    """The message of the first collection error, in brackets."""
    lines = [line for error in errors for line in error.splitlines()]
    said = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")] or lines
    return f" ({said[0]})" if said else ""
