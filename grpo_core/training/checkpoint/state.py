"""``state.json`` of a checkpoint: position, shapes, configuration and checksums. Read without torch.

The field ``seal`` is a checksum of all other fields.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from grpo_core.home import parse_json

FORMAT = 2
STATE_FILE = "state.json"

_STEP_NAME = re.compile(r"step-(\d{6,})")


def folder_name(step: int) -> str:
    """The name of the checkpoint of ``step``."""
    return f"step-{step:06d}"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in the folder of a run, oldest first. None where there is no folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    numbered = [(int(match[1]), path) for path in paths if (match := _STEP_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def sealed(state: dict[str, Any]) -> bytes:
    """The content of the file."""
    return (json.dumps(state | {"seal": _seal(state)}, indent=2, sort_keys=True) + "\n").encode()


def read_state(path: Path) -> dict[str, Any]:
    """The state of the checkpoint in the folder ``path``, without its seal.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is not there, damaged, of another format, or of another step.
    """
    state = parse_json((path / STATE_FILE).read_bytes())
    if not isinstance(state, dict) or state.pop("seal", None) != _seal(state):
        raise ValueError(f"{STATE_FILE} does not match its checksum")
    if state["format"] != FORMAT:
        raise ValueError(f"format {state['format']}, this version reads format {FORMAT}")
    if not isinstance(state["config"], dict) or type(state["step"]) is not int:
        raise ValueError(f"{STATE_FILE} has no configuration, or no step")
    if path.name != folder_name(state["step"]):
        raise ValueError(f"holds step {state['step']}")
    return state


def newest_state(folder: Path) -> dict[str, Any] | None:
    """The state of the newest checkpoint in ``folder`` whose state can be read; None when there is none."""
    for path in reversed(checkpoints_in(folder)):
        try:
            return read_state(path)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _seal(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
