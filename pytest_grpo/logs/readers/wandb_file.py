"""W&B: the ``run-<id>.wandb`` of an offline run, or of an online run's folder; needs the package wandb."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.logs.readers.json_lines import numbers, whole_number
from pytest_grpo.logs.readers.wandb_frames import MAGIC, CutOffError, messages
from pytest_grpo.logs.records import Reading, Record
from pytest_grpo.logs.vocabulary.stacks import STACKS
from pytest_grpo.logs.vocabulary.vocabulary import Vocabulary

OWN_STEP = "_step"


@dataclass(frozen=True, slots=True)
class WandbReader:
    """A row per ``wandb.log``. Which stack logged it is known by the names."""

    name: str = "wandb"
    title: str = "W&B's .wandb file"

    def recognises(self, path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC

    def read(self, path: Path) -> Reading:
        rows, notes = _rows(path)
        vocabulary = _vocabulary({name for row in rows for name in row})
        return Reading(tuple(_records(rows, vocabulary)), notes)

    def vocabulary(self, reading: Reading) -> Vocabulary:
        return _vocabulary({name for record in reading.records for name in record.values})


def _vocabulary(logged: set[str]) -> Vocabulary:
    """The vocabulary of the stack of whose names there are most."""
    return max(STACKS, key=lambda stack: stack.num_known(logged))


def _records(rows: Iterable[dict[str, float]], vocabulary: Vocabulary) -> Iterator[Record]:
    """The rows of steps. What the timers took since the last one is part of it, per step when it is of several."""
    timed, last_step = dict.fromkeys(vocabulary.timers, 0.0), None
    for row in rows:
        if not row.keys().isdisjoint(timed):
            for name in row.keys() & timed.keys():
                timed[name] += row[name]
            continue
        record = _record(row, vocabulary) if vocabulary.num_known(row.keys()) else None
        if record is not None and any(timed.values()):
            num_steps = 0 if last_step is None else record.step - last_step
            parts = {name: total / num_steps for name, total in timed.items()} if num_steps > 0 else {}
            record = Record(record.step, {**row, **parts})
            timed, last_step = dict.fromkeys(timed, 0.0), record.step
        if record is not None:
            yield record


def _record(row: dict[str, float], vocabulary: Vocabulary) -> Record | None:
    """None when the stack counts steps itself, and this row is of none."""
    if not vocabulary.steps:
        step = whole_number(row.get(OWN_STEP))
        return None if step is None else Record(step, row)
    for column, added in vocabulary.steps:
        step = whole_number(row.get(column))
        if step is not None:
            return Record(step + added, row)
    return None


def _rows(path: Path) -> tuple[list[dict[str, float]], tuple[str, ...]]:
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto.wandb_internal_pb2 import Record as WandbRecord  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise pytest.UsageError(
            f"{path}: needs the package wandb, which is not installed: run `pip install wandb`"
        ) from None
    rows: list[dict[str, float]] = []
    try:
        for message in messages(path.read_bytes()):
            record = WandbRecord.FromString(message)
            if record.HasField("history"):
                rows.append(dict(numbers(dict(_values(record.history.item)))))
    except (CutOffError, DecodeError):
        return rows, ("the file is cut off or damaged after its last whole row",)
    return rows, ()


def _values(items: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    """The names and values of a row. A value is JSON text, or typed (``x_history_value_encoding``)."""
    for item in items:
        name = item.key or ".".join(item.nested_key)
        if item.value_json:
            try:
                yield name, json.loads(item.value_json)
            except ValueError:
                yield name, math.nan
        elif item.WhichOneof("value") in ("integer", "number"):
            yield name, getattr(item, item.WhichOneof("value"))
