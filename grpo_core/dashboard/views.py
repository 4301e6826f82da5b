"""What the page shows, as JSON values: the list of runs, one run, the stored verdicts."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from grpo_core.dashboard import account, chart_lines, charts
from grpo_core.dashboard.advice import advice_json
from grpo_core.dashboard.run_data import RunData
from grpo_core.dashboard.run_list import RunLine, RunList
from grpo_core.dashboard.samples import samples_json
from grpo_core.dashboard.timeline import timeline_json
from grpo_core.dashboard.verdicts import VerdictFiles
from grpo_core.home import Home, is_name

_MAX_RUNS_IN_MEMORY = 8
_OF_CHARTS, _OF_ACCOUNTS = charts.shown_fields(), account.FIELDS
_FIELDS = {
    kind: sorted({*_OF_CHARTS.get(kind, ()), *_OF_ACCOUNTS.get(kind, ())}) for kind in (*_OF_CHARTS, *_OF_ACCOUNTS)
}
"""What is kept of each event: a step has many more fields than the page shows."""

Version = Hashable
"""Two views of the same version show the same."""


class Views:
    """The views of one home. Any thread may ask."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._runs = RunList(home)
        self._verdicts = VerdictFiles(home)
        self._data: OrderedDict[str, RunData] = OrderedDict()
        self._guard = threading.Lock()

    def runs(self, seen: Version = None) -> tuple[Version, dict[str, Any] | None]:
        """The list of runs; nothing when its version was ``seen``."""
        with self._guard:
            lines = tuple(self._runs.lines())
        if lines == seen:
            return lines, None
        return lines, {"folder": str(self._home.events), "runs": [line.as_json() for line in lines]}

    def run(self, name: str, seen: Version = None) -> tuple[Version, dict[str, Any] | None]:
        """One run. Without its second part when its version was ``seen``; with ``line`` None when it has no events."""
        line = self._line(name)
        if line is None:
            return "gone", {"name": name, "line": None}
        data = self._data_of(name)
        with data.lock:
            data.refresh()
            version = (id(data), data.revision, line)
            return version, None if version == seen else _run_json(data, line)

    def samples(self, name: str) -> dict[str, Any] | None:
        """The newest samples of a run; None when it has no events."""
        return None if self._line(name) is None else samples_json(self._home, name)

    def advice(self, name: str) -> dict[str, Any] | None:
        """What would give time back; None when it has no events."""
        return None if self._line(name) is None else advice_json(self._home, name)

    def verdicts(self, seen: Version = None) -> tuple[Version, dict[str, Any] | None]:
        """The stored verdicts; nothing when their version was ``seen``."""
        with self._guard:
            version = self._verdicts.state()
            return version, None if version == seen else self._verdicts.as_json()

    def _line(self, name: str) -> RunLine | None:
        if not is_name(name):
            return None
        with self._guard:
            return self._runs.line(name)

    def _data_of(self, name: str) -> RunData:
        with self._guard:
            if name not in self._data:
                self._data[name] = RunData(self._home.events / f"{name}.jsonl", _FIELDS)
            self._data.move_to_end(name)
            while len(self._data) > _MAX_RUNS_IN_MEMORY:
                self._data.popitem(last=False)
            return self._data[name]


def _run_json(data: RunData, line: RunLine) -> dict[str, Any]:
    return {
        "name": line.name,
        "line": line.as_json(),
        "num_events": data.num_events,
        "num_failed_attempts": data.num_failed_attempts,
        "device": str(data.newest("gpu_stats").get("device_name", "")),
        "is_host": data.newest("gpu_stats").get("source") == "host",
        "charts": chart_lines.charts_json(data),
        "accounts": account.accounts_json(data),
        "timeline": timeline_json(data.recent),
        "panels": charts.panels_json(),
    }


def encoded(content: Any) -> str:
    """As JSON in one line, which has no NaN."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))
