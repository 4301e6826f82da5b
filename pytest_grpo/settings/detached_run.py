"""The record of a detached run: its phases, their Modal call ids, and their tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class DetachedRun:
    """A started run: per phase the id of its Modal function call, and its tests."""

    name: str
    calls: dict[int, str]
    node_ids: dict[int, list[str]]


def write_run(run: DetachedRun) -> None:
    from grpo_core.home import write_json

    phases = {str(phase): {"call_id": call, "node_ids": run.node_ids[phase]} for phase, call in run.calls.items()}
    write_json(run_folder(run.name) / "run.json", {"phases": phases})


def read_run(name: str) -> DetachedRun:
    """Raises pytest.UsageError, which lists the known runs, when ``name`` is none of them."""
    from grpo_core.errors import InvalidNameError

    try:
        phases = json.loads((run_folder(name) / "run.json").read_bytes())["phases"]
    except (OSError, InvalidNameError) as error:
        present = ", ".join(sorted(path.parent.name for path in _runs_folder().glob("*/run.json"))) or "none yet"
        raise pytest.UsageError(f"--modal-attach {name!r}: no such run; {_runs_folder()} has {present}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise pytest.UsageError(
            f"--modal-attach {name!r}: {run_folder(name)}/run.json is damaged; restore it"
        ) from error
    calls = {int(phase): entry["call_id"] for phase, entry in phases.items()}
    return DetachedRun(name, calls, {int(phase): entry["node_ids"] for phase, entry in phases.items()})


def phases_of_run(name: str) -> frozenset[int]:
    """Raises pytest.UsageError when there is no such run."""
    return frozenset(read_run(name).calls)


def _runs_folder() -> Path:
    from grpo_core.home import Home

    return Home.from_environment().data / "remote"


def run_folder(name: str) -> Path:
    from grpo_core.home import check_name

    return _runs_folder() / check_name(name, "run")
