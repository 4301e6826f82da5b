"""The verdicts that ``pytest --grpo-save NAME`` stored, each gate with its history. Read from their files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_core.dashboard.values import numbers_of, text
from grpo_core.home import Home, parse_json

_MAX_FILES = 200
_MAX_FILE_BYTES = 32 << 20
_NUMBERS = ("measured", "low", "high", "bound_low", "bound_high")
_TEXTS = ("verdict", "threshold", "unit", "reason")

FileState = tuple[int, int]


class VerdictFiles:
    """The stored results of a home. A file that did not change is not read again."""

    def __init__(self, home: Home) -> None:
        self._folder = home.data / "baselines"
        self._known: dict[Path, tuple[FileState, dict[str, Any] | None]] = {}

    def state(self) -> tuple[tuple[Path, FileState], ...]:
        """Differs when there is something new to show."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                status = path.stat()
            except OSError:
                continue
            if path.is_file() and status.st_size <= _MAX_FILE_BYTES:
                found.append((path, (status.st_mtime_ns, status.st_size)))
        return tuple(sorted(found, key=lambda entry: entry[1][0])[-_MAX_FILES:])

    def as_json(self) -> dict[str, Any]:
        """The gates by name, each with its results, oldest first; and how many files say nothing."""
        state = self.state()
        for path, file_state in state:
            if path not in self._known or self._known[path][0] != file_state:
                self._known[path] = (file_state, _read(path))
        stored = [content for path, _ in state if (content := self._known[path][1]) is not None]
        gates: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for content in sorted(stored, key=lambda each: text(each.get("created_at"))):
            for node, row in _rows(content):
                gates.setdefault((node, text(row.get("metric")), text(row.get("system"))), []).append(
                    _result(content, row)
                )
        return {
            "folder": str(self._folder),
            "num_unreadable": len(state) - len(stored),
            "gates": [
                {"test": node, "metric": metric, "system": system, "results": results}
                for (node, metric, system), results in sorted(gates.items())
            ],
        }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("results"), list) else None


def _rows(content: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (entry[0], entry[1])
        for entry in content["results"]
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], dict)
    ]


def _result(content: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    machine = content.get("fingerprint")
    machine = machine if isinstance(machine, dict) else {}
    gpus = machine.get("gpus")
    device = text(gpus[0]) if isinstance(gpus, list) and gpus else text(machine.get("cpu"))
    return {
        "name": text(content.get("name")),
        "created_at": text(content.get("created_at"))[:19],
        "commit": text(machine.get("commit"))[:12],
        "device": device,
        **{field: text(row.get(field)) for field in _TEXTS},
        **numbers_of(row, _NUMBERS),
    }
