"""Samples of a run with their rewards: the batches that are still on the disk, as text."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_core.dashboard.values import number
from grpo_core.errors import GrpoError
from grpo_core.home import Home
from grpo_core.schedule.batch_file import read_batch
from grpo_core.training.checkpoint_state import newest_state

if TYPE_CHECKING:
    from grpo_core.model.tokenizer import Tokenizer
    from grpo_core.types import Batch, Trajectory

_MAX_GROUPS = 4
_MAX_SIBLINGS = 8
_MAX_TURNS = 4
_MAX_CHARACTERS = 4_000
_MAX_FILE_BYTES = 256 << 20
_loading = threading.Lock()  # a tokenizer is loaded once, however many pages ask


def samples_json(home: Home, run: str, model: str | None) -> dict[str, Any]:
    """The newest batch of ``run`` that is stored: its groups, each with the prompt and its siblings' answers.

    ``model`` names the tokenizer where no checkpoint says which. ``note`` says why there is nothing, or no text.
    """
    path = _newest_batch(home.buffer / run)
    if path is None:
        return {
            "groups": [],
            "note": "No batch of this run is on the disk: one stays until a checkpoint covers it.",
        }
    try:
        batch = read_batch(path)
    except GrpoError as error:
        return {"groups": [], "note": str(error)}
    note = ""
    tokenizer = None
    try:
        tokenizer = _tokenizer_of(home, run, model)
    except GrpoError as error:
        note = f"Token ids instead of text: {error}"
    return {"batch": batch.index, "groups": _groups(batch, tokenizer), "note": note}


def _newest_batch(folder: Path) -> Path | None:
    try:
        files = [path for path in folder.glob("batch-*.arrow") if path.is_file()]
        small = [path for path in files if path.stat().st_size <= _MAX_FILE_BYTES]
    except OSError:  # a batch that was acknowledged meanwhile
        return None
    return max(small, default=None, key=lambda path: path.name)


def _tokenizer_of(home: Home, run: str, model: str | None) -> Tokenizer:
    state = newest_state(home.checkpoints / run)
    name = state["config"]["model"]["name"] if state is not None else model
    with _loading:
        return _load(str(name))


@functools.lru_cache(maxsize=4)
def _load(name: str) -> Tokenizer:
    from grpo_core.model.tokenizer import load_tokenizer

    return load_tokenizer(name)


def _groups(batch: Batch, tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
    return [
        {
            "id": group.group_id,
            "num_siblings": len(group.trajectories),
            "siblings": [_sibling(each, tokenizer) for each in group.trajectories[:_MAX_SIBLINGS]],
        }
        for group in batch.groups[:_MAX_GROUPS]
    ]


def _sibling(trajectory: Trajectory, tokenizer: Tokenizer | None) -> dict[str, Any]:
    def shown(ids: Any) -> str:
        text = " ".join(map(str, ids[:200])) if tokenizer is None else tokenizer.decode(ids)
        return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} …"

    return {
        "reward": number(float(trajectory.reward)),
        "agent": str(trajectory.agent),
        "num_turns": len(trajectory.turns),
        "turns": [
            {
                "prompt": shown(turn.prompt_ids),
                "answer": shown(turn.completion_ids),
                "num_tokens": len(turn.completion_ids),
                "finish": turn.finish_reason,
            }
            for turn in trajectory.turns[:_MAX_TURNS]
        ],
    }
