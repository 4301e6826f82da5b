"""Copies of a model's folder to damage, and the one line that each error must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from grpo_core.errors import ModelError


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message
