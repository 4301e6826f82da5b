"""The events of ``grpo train``: ``GRPO_HOME/data/events/<run>.jsonl``, one object per event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_grpo.logs.readers.json_lines import first_objects, numbers, read_objects, whole_number
from pytest_grpo.logs.records import Reading, Record
from pytest_grpo.logs.vocabulary.stacks import OWN_STACK
from pytest_grpo.logs.vocabulary.vocabulary import Vocabulary

_ROLLOUT_NAMES = {"duration_s": "rollout_s", "tokens_per_second": "tokens_per_second"}


@dataclass(frozen=True, slots=True)
class EventsReader:
    """A ``train_step`` event, with the rollout of its batch and the memory that was in use before it ended."""

    name: str = "events"
    title: str = "events of grpo_core"

    def recognises(self, path: Path) -> bool:
        return any({"_time", "kind", "run"} <= each.keys() for each in first_objects(path))

    def read(self, path: Path) -> Reading:
        events, notes = read_objects(path)
        reading = _Events()
        for event in events:
            reading.take(event)
        return Reading(tuple(reading.records), notes)

    def vocabulary(self, reading: Reading) -> Vocabulary:
        return OWN_STACK


@dataclass
class _Events:
    """The events so far, as records."""

    records: list[Record] = field(default_factory=list)
    has_started: bool = False
    last_end_s: float | None = None
    memory_bytes: dict[int, float] = field(default_factory=dict)
    """The most in use since the last step, by device."""

    def take(self, event: Mapping[str, Any]) -> None:
        values = dict(numbers(event))
        match event.get("kind"):
            case "run_started":
                self.has_started, self.last_end_s = True, None
                self.memory_bytes.clear()
            case "gpu_stats" if "memory_used_bytes" in values:
                device = int(values.get("device_index", 0))
                self.memory_bytes[device] = max(self.memory_bytes.get(device, 0.0), values["memory_used_bytes"])
            case "rollout":
                index = whole_number(event.get("batch_index"))
                if index is not None:  # batch k is trained on by the step to version k + 1
                    named = {name: values[key] for key, name in _ROLLOUT_NAMES.items() if key in values}
                    self.records.append(Record(index + 1, named))
            case "train_step":
                self._take_step(event, values)

    def _take_step(self, event: Mapping[str, Any], values: dict[str, float]) -> None:
        step, end_s = whole_number(event.get("step")), values.get("time")
        if step is None:
            return
        if self.last_end_s is not None and end_s is not None:
            values["cycle_s"] = end_s - self.last_end_s
        if self.memory_bytes:
            values["memory_used_bytes"] = sum(self.memory_bytes.values())
        self.records.append(Record(step, values, is_start=self.has_started))
        self.has_started, self.last_end_s = False, end_s
        self.memory_bytes.clear()
