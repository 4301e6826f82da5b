"""What runs left on disk: how much it is, and how it is removed."""

from __future__ import annotations

import os
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from grpo_core.home import Home, check_name, is_name
from grpo_core.lora.store import AdapterStore
from grpo_core.schedule.runs.lock import hold_run, is_held
from grpo_core.training.checkpoint.state import newest_state

DAY_S = 24 * 3600
_REMAINS_AGE_S = DAY_S
"""What a killed process left half-written is removed when it is as old as this: a younger one may still be written."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run's state on disk. Without a checkpoint ``step`` and ``num_steps`` are None; times are seconds since 1970."""

    name: str
    step: int | None
    num_steps: int | None  # of the whole run
    num_bytes: int  # without published weights, which runs may share
    changed_at_s: float
    is_training: bool

    @property
    def state(self) -> str:
        if self.is_training:
            return "training"
        if self.step is None or self.num_steps is None:
            return "-"
        return "finished" if self.step >= self.num_steps else "stopped"


def stored_runs(home: Home) -> list[StoredRun]:
    """The runs in ``home``, the one that was changed last first."""
    return sorted((_read(home, run) for run in _names(home)), key=lambda run: -run.changed_at_s)


def remove_run(home: Home, run: str) -> None:
    """Remove everything of ``run``: its weights, checkpoints, batches and events.

    Raises:
        ConfigError: it is being trained now.
    """
    with hold_run(home, run):
        AdapterStore(home.adapters).discard_after(run, -1)
        for path in (*_paths(home, run), home.adapters / "runs" / run):
            _remove(path)
        _remove(home.locks / f"{run}.lock")  # last: until then nobody else may begin


def remove_remains(home: Home) -> int:
    """Remove what killed processes left half-written. Returns how many files and folders that were."""
    oldest_s = time.time() - _REMAINS_AGE_S
    patterns = ("checkpoints/*/.*", "buffer/*/.*", "adapters/objects/.*", "deliveries/.*", "benchmarks/.*")
    remains = [path for pattern in patterns for path in home.data.glob(pattern) if path.lstat().st_mtime < oldest_s]
    for path in remains:
        _remove(path)
    return len(remains)


def _remove(path: Path) -> None:
    """Remove ``path``; of a link only the link, never what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _names(home: Home) -> set[str]:
    folders = (home.checkpoints, home.buffer, home.adapters / "runs")
    names = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    names |= {path.stem for path in home.events.glob("*.jsonl")}
    return {name for name in names if is_name(name) and not name.startswith(".")}


def _read(home: Home, run: str) -> StoredRun:
    files = [path for top in _paths(home, run) for path in (top, *top.rglob("*"))]
    references = (home.adapters / "runs" / run).glob("*.json")
    found = [status for path in files if (status := _status(path)) is not None]
    changed = [status.st_mtime for status in (*found, *map(_status, references)) if status is not None]
    state = newest_state(home.checkpoints / run)
    return StoredRun(
        name=run,
        step=None if state is None else state["step"],
        num_steps=None if state is None else state["config"].get("schedule", {}).get("num_steps"),
        num_bytes=sum(status.st_size for status in found if stat.S_ISREG(status.st_mode)),
        changed_at_s=max(changed, default=0.0),
        is_training=is_held(home, run),
    )


def _status(path: Path) -> os.stat_result | None:
    """None for a file that is not there, or no longer: the run may be training."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _paths(home: Home, run: str) -> list[Path]:
    """The files and folders that are the run's alone, whether they exist or not."""
    name = check_name(run, "run")
    events = home.events / f"{name}.jsonl"
    return [
        home.checkpoints / name,
        home.buffer / name,
        home.samples / name,
        events,
        events.with_name(f"{events.name}.1"),
        *(home.deliveries / f"{name}.{service}.json" for service in ("axiom", "wandb", "wandb-id")),
        home.data / "claims" / f"{name}.json",
    ]
