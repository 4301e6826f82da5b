"""TRL: the ``trainer_state.json`` of a checkpoint, whose ``log_history`` has an object per logged step.

The keys are those of ``trl/trainer/grpo_trainer.py``: ``step_time``, ``num_tokens`` (counts up), ``reward``. With
``logging_steps`` above 1 a record is the mean over the steps since the last one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.logs.readers.json_lines import numbers, whole_number
from pytest_grpo.logs.records import Reading, Record
from pytest_grpo.logs.vocabulary.stacks import TRL
from pytest_grpo.logs.vocabulary.vocabulary import Vocabulary

HISTORY = "log_history"


@dataclass(frozen=True, slots=True)
class TrainerStateReader:
    name: str = "trainer-state"
    title: str = "TRL's trainer_state.json"

    def recognises(self, path: Path) -> bool:
        """Also of a file that is cut off: ``read`` says so."""
        with path.open("rb") as file:
            start = file.read(1)
        return start == b"{" and f'"{HISTORY}"'.encode() in path.read_bytes()

    def read(self, path: Path) -> Reading:
        try:
            state = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        except (ValueError, RecursionError) as error:
            raise pytest.UsageError(f"{path}: damaged: it is not JSON ({error}); take another checkpoint's") from None
        history = state.get(HISTORY) if isinstance(state, dict) else None
        if not isinstance(history, list):
            raise pytest.UsageError(f"{path}: has no list {HISTORY!r}; name the trainer_state.json of a checkpoint")
        return Reading(tuple(filter(None, map(_record, history))))

    def vocabulary(self, reading: Reading) -> Vocabulary:
        return TRL


def _record(logged: Any) -> Record | None:
    step = whole_number(logged.get("step")) if isinstance(logged, dict) else None
    return None if step is None else Record(step, dict(numbers(logged)))
