"""A file of a run's events, in the form that the panels read."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from pytest_grpo.systems.step_record import StepRecord


class EventFile:
    """Appends the events of each step to ``path``, one JSON object per line. It is a context manager.

    ``EventFile()`` stands for no file. It writes nothing, and neither does a file after its block: so a system keeps
    one ``EventFile`` all the time.
    """

    def __init__(self, path: Path | None = None, run: str = "") -> None:
        """``run`` names the run in the panels."""
        self._run = run
        self._file = None if path is None else path.open("a", encoding="utf-8")

    def write(self, record: StepRecord) -> None:
        """Append the events of ``record``. NaN and infinities are null: JSON has neither."""
        if self._file is None or self._file.closed:
            return
        for kind, fields in record.events().items():
            finite = {name: value if math.isfinite(value) else None for name, value in fields.items()}
            event = {"kind": kind, "time": time.time(), "run": self._run, **finite}
            self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def __enter__(self) -> EventFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
