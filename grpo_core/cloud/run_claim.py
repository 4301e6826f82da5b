"""Only one call trains a run at a time. The same call may continue it after its container was lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from grpo_core.errors import ConfigError
from grpo_core.home import Home, check_name, write_atomic


def claim_run(home: Home, run: str, call_id: str, is_running: Callable[[str], bool]) -> bool:
    """Claim ``run`` for ``call_id``. Returns whether that call had claimed it before, and should resume.

    Raises:
        ConfigError: another call is training it now.
    """
    path = _path(home, run)
    holder = json.loads(path.read_text(encoding="utf-8"))["call"] if path.exists() else None
    if holder == call_id:
        return True
    if holder is not None and is_running(holder):
        raise ConfigError(
            f"run {run!r} is being trained by the call {holder} now; wait for it, stop it, or give --run another name"
        )
    write_atomic(path, json.dumps({"call": call_id}).encode())
    return False


def _path(home: Home, run: str) -> Path:
    return home.data / "claims" / f"{check_name(run, 'run')}.json"
