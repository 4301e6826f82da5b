"""Samples of a run with their rewards: those of the newest step that was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from grpo_core.dashboard.values import number
from grpo_core.errors import GrpoError
from grpo_core.home import Home
from grpo_core.schedule.samples import read_samples, sample_files

_MAX_GROUPS = 4
_MAX_SIBLINGS = 8
_MAX_TURNS = 4
_MAX_CHARACTERS = 4_000
_MAX_FILE_BYTES = 256 << 20

Row = Mapping[str, Any]


def samples_json(home: Home, run: str) -> dict[str, Any]:
    """The groups of the newest step of ``run`` that was kept, each with the prompt and its siblings' answers.

    ``note`` says why there is nothing.
    """
    try:
        files = {step: path for step, path in sample_files(home, run).items() if path.stat().st_size <= _MAX_FILE_BYTES}
        if not files:
            return {"groups": [], "note": "No samples of this run are kept: see telemetry.samples_every_steps."}
        step = max(files)
        return {"step": step, "groups": _groups(read_samples(files[step])), "note": ""}
    except OSError:  # the run dropped its oldest file meanwhile
        return {"groups": [], "note": "The samples changed while they were read: ask again."}
    except GrpoError as error:
        return {"groups": [], "note": str(error)}


def _groups(rows: Sequence[Row]) -> list[dict[str, Any]]:
    found = []
    for name, of_group in groupby(rows, key=lambda row: row["group"]):
        siblings = [list(turns) for _, turns in groupby(of_group, key=lambda row: row["sample"])]
        shown = [_sibling(turns) for turns in siblings[:_MAX_SIBLINGS]]
        found.append({"id": str(name), "num_siblings": len(siblings), "siblings": shown})
    return found[:_MAX_GROUPS]


def _sibling(turns: Sequence[Row]) -> dict[str, Any]:
    return {
        "reward": number(turns[0]["reward"]),
        "agent": str(turns[0]["agent"]),
        "num_turns": len(turns),
        "turns": [
            {
                "prompt": _shown(turn["prompt"]),
                "answer": _shown(turn["completion"]),
                "num_tokens": turn["num_tokens"],
                "finish": turn["finish_reason"],
            }
            for turn in turns[:_MAX_TURNS]
        ],
    }


def _shown(text: Any) -> str:
    text = str(text)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} …"
