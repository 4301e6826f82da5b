"""What the page knows of one run: its newest events, and columns of numbers for the charts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from grpo_core.dashboard.columns import Table
from grpo_core.dashboard.values import number
from grpo_core.telemetry.columns import FIELDS
from grpo_core.telemetry.event_file import EventFile
from grpo_core.telemetry.events import Record

_MAX_TABLES = 64
"""Devices and threads that are told apart. A file with more of them is none of ours."""
_MAX_RECENT = 400
_TIMED = frozenset({"ledger", "train_step", "rollout", "adapter_load"})
"""Kinds of events that a timeline is made of."""
_SPLIT_BY: Mapping[str, tuple[str, ...]] = {
    "gpu_stats": ("device_index",),
    "ledger": ("process", "thread"),
    "reward": ("function",),
}
_NO_EVENT: Record = {}


class RunData:
    """The events of one run in memory. ``revision`` differs whenever there is something new to show.

    Several pages may look at one run, each from its own thread: who refreshes it, or reads it, holds ``lock``.
    """

    def __init__(self, path: Path, fields: Mapping[str, Sequence[str]]) -> None:
        """``fields``: what is kept of the events of each kind."""
        self._fields = fields
        self._file = EventFile(path)
        self._generation = 0
        self.lock = threading.Lock()
        self.revision = 0
        self._forget()

    def refresh(self) -> None:
        """Read what was written since the last call."""
        for records in self._file.new_pages():
            self._forget_what_is_gone()
            self._add(records)
            self.revision += 1
        self._forget_what_is_gone()

    def table(self, name: str) -> Table | None:
        """The table of a kind, device, thread or reward function, such as ``train_step``, ``gpu_stats/0`` or
        ``ledger/trainer-0/train``."""
        return self._tables.get(name)

    def table_names(self, kind: str) -> list[str]:
        """The tables of ``kind``, in the order in which they appeared."""
        return [name for name in self._tables if name == kind or name.startswith(f"{kind}/")]

    def newest(self, kind: str) -> Record:
        """The last event of ``kind``, empty while there is none."""
        return self._newest.get(kind, _NO_EVENT)

    @property
    def recent(self) -> Sequence[Record]:
        """The last events of the kinds that a timeline is made of."""
        return tuple(self._recent)

    def _forget(self) -> None:
        self.num_events = 0
        self.num_failed_attempts = 0
        self.started_s: float | None = None
        self._tables: dict[str, Table] = {}
        self._newest: dict[str, Record] = {}
        self._recent: deque[Record] = deque(maxlen=_MAX_RECENT)

    def _forget_what_is_gone(self) -> None:
        if self._file.generation != self._generation:
            self._generation = self._file.generation
            self.revision += 1
            self._forget()

    def _add(self, records: Sequence[Record]) -> None:
        rows: dict[str, list[Record]] = {}
        for record in records:
            kind = record["kind"]
            if not isinstance(kind, str) or kind not in FIELDS:
                continue
            by = _SPLIT_BY.get(kind)
            name = kind if by is None else "/".join((kind, *(str(record.get(field)) for field in by)))
            rows.setdefault(name, []).append(record)
            self._newest[kind] = record
            if kind in _TIMED:
                self._recent.append(record)
        self.num_events += len(records)
        for name, those in rows.items():
            self._extend(name, those)
        if self.started_s is None:
            self.started_s = next((s for record in records if (s := number(record.get("time"))) is not None), None)

    def _extend(self, name: str, records: Sequence[Record]) -> None:
        kind = str(records[0]["kind"])
        if kind == "episode_failed":
            self.num_failed_attempts += len(records)
        if name not in self._tables:
            if len(self._tables) >= _MAX_TABLES or kind not in self._fields:
                return
            self._tables[name] = Table(self._fields[kind])
        self._tables[name].extend(records)
