"""Which file a run's name means: a file, a folder that holds one, or the name of a run in ``GRPO_HOME``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

STATE = "trainer_state.json"
_MAX_SHOWN = 8


def locate(text: str, events_folder: Path) -> Path:
    """The log that ``text`` means.

    Raises:
        pytest.UsageError: there is none, or the folder holds several.
    """
    path = Path(text)
    if path.is_dir():
        return _in_folder(path, text)
    if path.exists():
        return path
    stored = events_folder / f"{text}.jsonl"
    if path.name == text and stored.exists():
        return stored
    known = sorted(each.stem for each in events_folder.glob("*.jsonl"))
    has = f"its runs are {_listed(known)}" if known else "it has none"
    raise pytest.UsageError(f"{text}: no such file or folder, and no run in {events_folder}; {has}")


def _in_folder(folder: Path, text: str) -> Path:
    for find in _PLACES:
        found = find(folder)
        if len(found) > 1:
            names = [str(each.relative_to(folder)) for each in found]
            raise pytest.UsageError(f"{text}: has {len(found)} logs: {_listed(names)}; name one of them")
        if found:
            return found[0]
    raise pytest.UsageError(f"{text}: the folder has no run-*.wandb, {STATE} or *.jsonl; name the log's file")


def _of_checkpoints(folder: Path) -> list[Path]:
    """The log of the newest checkpoint: its history begins with the run."""
    found = [path for path in folder.glob(f"checkpoint-*/{STATE}") if _number(path.parent).isdecimal()]
    return sorted(found, key=lambda path: int(_number(path.parent)))[-1:]


def _number(checkpoint: Path) -> str:
    return checkpoint.name.rpartition("-")[2]


_PLACES: Sequence[Callable[[Path], list[Path]]] = (
    lambda folder: sorted(folder.glob("run-*.wandb")),
    lambda folder: sorted(folder.glob("*run-*/run-*.wandb")),
    lambda folder: sorted(folder.glob("wandb/*run-*/run-*.wandb")),
    lambda folder: sorted(folder.glob(STATE)),
    _of_checkpoints,
    lambda folder: sorted(folder.glob("*.jsonl")),
)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"{', '.join(names[:_MAX_SHOWN])}{more}"
