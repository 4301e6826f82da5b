"""What travels between this session and the place where phase tests run: a request there, events back, as JSON text.

Imports only the standard library, so that a place starts fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

MAX_MESSAGE_BYTES = 1 << 20
"""A longer event travels in parts: Modal stores what exceeds 2 MiB elsewhere, and a pipe should stay readable."""

Event = dict[str, Any]
"""Something that happened. ``event`` is one of:

- ``begun``: the place has begun to work; ``call_id`` is Modal's name of the call. A second one: it began again.
- ``collected``: pytest has collected; ``missing`` and ``extra`` node ids, ``differing`` code, collection ``errors``,
  ``fingerprint`` and ``machine_info`` of the machine
- ``start``: the test ``nodeid`` begins
- ``report``: ``data`` is a serialised test report
- ``warning``: ``message``, ``category`` (class name), ``when``, ``nodeid``, ``filename``, ``lineno``, ``location``
- ``benchmark``: ``nodeid`` and an ``entry`` of pytest-benchmark
- ``done``: the test ``nodeid`` has ended, and all that is to say about it was said
- ``finish``: pytest's session ended, in whatever way; without it, its process was taken down
- ``end``: the last one: ``exit_code`` of pytest and ``output_tail``, the end of what it printed
- ``state``: ``text``, for people: queued, running, ...
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One phase to run. Paths are relative to the root of the project."""

    phase: int
    node_ids: tuple[str, ...]
    """What to run, in this order."""
    collected: tuple[str, ...]
    """All tests of the phase that were collected here from files that were collected whole."""
    arguments: tuple[str, ...]
    """For pytest, in front of the files."""
    code: Mapping[str, str]
    """Path -> digest of each file of code, and ``package NAME`` -> digest of what is imported under that name."""
    root: str
    """The project's folder here. In all texts the place writes it for its own."""
    baseline: str = ""
    """The file of ``--grpo-compare``, as text."""
    wants_machine_info: bool = False
    """Whether pytest-benchmark's slow look at the machine is needed."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        fields = json.loads(text)
        for name in ("node_ids", "collected", "arguments"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


class RemoteLostError(RuntimeError):
    """The place was lost. That is no verdict: another one is asked, and at last each test without a result becomes an
    error. ``may_retry`` is false where another one would fare no better."""

    def __init__(self, reason: str, *, may_retry: bool = True) -> None:
        super().__init__(reason)
        self.may_retry = may_retry


class RemoteRefusedError(RuntimeError):
    """The place cannot be used at all, e.g. because of credentials. The session stops with this one line."""


class Call(Protocol):
    """A phase under way."""

    def __iter__(self) -> Iterator[Event]:
        """The events as they happen; the last one is ``end``. They may repeat when the place begins again by itself.

        Raises:
            RemoteLostError: the place was lost; events so far were yielded.
            RemoteRefusedError: it cannot be used.
        """
        ...

    def cancel(self) -> None:
        """End it and leave nothing running there. From any thread, at any time; the events end soon after."""
        ...


class Remote(Protocol):
    """A place that runs phases."""

    @property
    def max_side_by_side(self) -> int:
        """How many phases may run at once. 1 where they would share a machine and disturb each other's measurements."""
        ...

    def start(self, request: Request) -> Call: ...

    def close(self) -> None:
        """All calls have ended. Give back what is held."""
        ...


def encode(line: str) -> Iterator[str]:
    """An event, as a line of JSON in ASCII, as one message or in parts."""
    if len(line) <= MAX_MESSAGE_BYTES:
        yield line
        return
    # Text within text: each quote and backslash takes up to twice the room.
    size = MAX_MESSAGE_BYTES // 2 - 100
    for start in range(0, len(line), size):
        is_last = start + size >= len(line)
        yield json.dumps({"part": start, "is_last": is_last, "text": line[start : start + size]})


def number_texts(texts: Iterable[str], place: str) -> Iterator[str]:
    """Each text with a first line that says where it comes from and its number. ``place`` is new at each beginning.

    Modal runs a generator again when its container is lost, and drops as many chunks as had arrived before: it takes
    the second run for a repetition of the first. The numbers tell that something is missing.
    """
    for number, text in enumerate(texts):
        yield f"{json.dumps({'place': place, 'number': number})}\n{text}"


class Decoder:
    """Puts messages together again."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._place = ""
        self._next_number = 0

    def decode(self, messages: Iterable[str]) -> Iterator[Event]:
        """The events in ``messages``.

        Raises:
            RemoteLostError: a numbered text is missing.
        """
        for message in messages:
            data = json.loads(message)
            if "place" in data:
                self._check_number(data["place"], data["number"])
                continue
            if "part" not in data:
                yield data
                continue
            if data["part"] == 0:
                self._parts.clear()  # the place began again in the middle of an event
            self._parts.append(data["text"])
            if data["is_last"]:
                text = "".join(self._parts)
                self._parts.clear()
                yield json.loads(text)

    def _check_number(self, place: str, number: int) -> None:
        if place != self._place:
            self._place, self._next_number = place, 0
        if number != self._next_number:
            raise RemoteLostError("its container was replaced in the middle")
        self._next_number += 1


def problem_of(event: Event, phase: int) -> str:
    """What a ``collected`` event says is not the same there, in one line; empty when all is."""
    differences: tuple[tuple[str, str, str], ...] = (
        ("differing", "other code there", "save your files and do not change them while phases run"),
        ("missing", "not collected there", "make collection depend on the code alone"),
        ("extra", "collected only there", "make collection depend on the code alone"),
    )
    for name, what, advice in differences:
        if event[name]:
            shown = ", ".join(event[name][:3]) + (f" and {len(event[name]) - 3} more" if len(event[name]) > 3 else "")
            return f"phase {phase}: {what}: {shown}{_first_error(event['errors'])}; {advice}"
    return ""


def _first_error(errors: list[str]) -> str:
    """The line of the first collection error that says what it was, in brackets."""
    lines = [line for error in errors for line in error.splitlines()]
    said = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")] or lines
    return f" ({said[0]})" if said else ""
