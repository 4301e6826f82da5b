"""The runs of a home in a line each. Only the beginning and the end of a run's file are read for it."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from grpo_core.dashboard.values import number, text
from grpo_core.home import Home, is_name
from grpo_core.schedule.runs.lock import is_held
from grpo_core.telemetry.events import Record
from grpo_core.telemetry.jsonl import parse_line

_HEAD_BYTES = 64 << 10
_TAIL_BYTES = 1 << 20
_NUM_PACE_STEPS = 20

Status = Literal["running", "done", "stopped", "failed"]
"""``stopped``: asked to end before its last step. ``failed``: nobody trains it, and it never said that it ended."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run at a glance. Times are seconds since 1970; what is not known yet is None."""

    name: str
    status: Status
    model: str | None = None
    environment: str | None = None
    step: int | None = None
    num_steps: int | None = None
    reward: float | None = None
    steps_per_hour: float | None = None
    eta_s: float | None = None
    started_s: float | None = None
    changed_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class RunList:
    """The runs in ``home``. A file that did not change is not read again."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: dict[str, tuple[tuple[int, int, int], RunLine]] = {}

    def names(self) -> list[str]:
        """The runs that have events."""
        found = (path.stem for path in self._home.events.glob("*.jsonl"))
        return [name for name in found if is_name(name) and not name.startswith(".")]

    def lines(self) -> list[RunLine]:
        """The runs as lines: those being trained first, then the one that changed last."""
        lines = [line for line in map(self.line, self.names()) if line is not None]
        return sorted(lines, key=lambda line: (line.status != "running", -(line.changed_s or 0.0), line.name))

    def line(self, name: str) -> RunLine | None:
        """The line of one run; None when it has no events (any more)."""
        path = self._home.events / f"{name}.jsonl"
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return None
            state = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known.get(name)
            if known is None or known[0] != state:
                known = (state, read_line(name, path))
                self._known[name] = known
        except OSError:
            self._known.pop(name, None)
            return None
        line = known[1]
        if is_held(self._home, name):
            return replace(line, status="running")
        return replace(line, eta_s=None)


def read_line(name: str, path: Path) -> RunLine:
    """What the file says of the run, as if nobody trained it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        records = _parsed(file.read(_HEAD_BYTES))
        num_bytes = file.seek(0, 2)
        if num_bytes > _HEAD_BYTES:
            file.seek(max(_HEAD_BYTES, num_bytes - _TAIL_BYTES))
            records += _parsed(file.read(_TAIL_BYTES))
    return _summed_up(name, [record for record in records if isinstance(record, dict)])


def _parsed(content: bytes) -> list[Any]:
    return [parse_line(line) for line in content.split(b"\n") if line]


def _summed_up(name: str, records: Sequence[Record]) -> RunLine:
    starts = [record for record in records if record.get("kind") == "run_started"]
    start = starts[-1] if starts else {}
    steps = [
        record for record in records if record.get("kind") == "train_step" and number(record.get("step")) is not None
    ]
    step = int(steps[-1]["step"]) if steps else None
    num_steps = number(start.get("num_steps"))
    times = [time_s for record in records if (time_s := number(record.get("time"))) is not None]
    figures = next((record for record in reversed(records) if record.get("kind") == "figures"), {})
    interval_s = _interval_s(steps)
    is_known = interval_s is not None and num_steps is not None and step is not None
    eta_s = max(num_steps - step, 0) * interval_s if is_known else None  # type: ignore[operator]
    return RunLine(
        name=name,
        status=_status(records, step, num_steps),
        model=text(start.get("preset")) or None,
        environment=text(start.get("environment")) or None,
        step=step,
        num_steps=None if num_steps is None else int(num_steps),
        reward=number(steps[-1].get("reward_mean")) if steps else None,
        steps_per_hour=number(figures.get("steps_per_hour")) or (3600 / interval_s if interval_s else None),
        eta_s=eta_s,
        started_s=number(start.get("time")),
        changed_s=max(times, default=None),
    )


def _status(records: Sequence[Record], step: int | None, num_steps: float | None) -> Status:
    ends = [record.get("kind") for record in records if record.get("kind") in ("run_started", "run_finished")]
    if not ends or ends[-1] == "run_started":
        return "failed"
    return "done" if step is None or num_steps is None or step >= num_steps else "stopped"


def _interval_s(steps: Sequence[Record]) -> float | None:
    """Median seconds from the end of one step to that of the next, of the last ones: pauses between two starts of a run
    do not count."""
    times = [time_s for record in steps[-_NUM_PACE_STEPS - 1 :] if (time_s := number(record.get("time"))) is not None]
    intervals = [later - earlier for earlier, later in pairwise(times) if later > earlier]
    return median(intervals) if intervals else None
