"""Only one call trains a run at a time. The same call may continue it after its container was lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from grpo_core.errors import ConfigError
from grpo_core.home import Home, check_name, parse_json, write_atomic


def claim_run(
    home: Home,
    run: str,
    call_id: str,
    is_running: Callable[[str], bool],
    *,
    commit: Callable[[], None],
    reload: Callable[[], None],
) -> bool:
    """Claim ``run`` for ``call_id``. Returns whether that call had claimed it before, and should resume.

    ``home`` must show what others committed up to now. Of two calls that claim a run at once, the one whose claim was
    committed first sees the other's when it looks again, and gives way.

    Raises:
        ConfigError: another call is training it now.
    """
    holder = _holder(home, run)
    if holder == call_id:
        return True
    if holder is not None and is_running(holder):
        raise _taken(run, holder)
    write_atomic(_path(home, run), json.dumps({"call": call_id}).encode())
    commit()
    reload()
    if (now := _holder(home, run)) != call_id:
        raise _taken(run, now)
    return False


def _holder(home: Home, run: str) -> str | None:
    """The call that claimed ``run`` last; None without one, or where it cannot be read: then nobody can continue it."""
    try:
        return str(parse_json(_path(home, run).read_bytes())["call"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _taken(run: str, holder: str | None) -> ConfigError:
    return ConfigError(
        f"run {run!r} is being trained by the call {holder} now; wait for it, stop it, or give --run another name"
    )


def _path(home: Home, run: str) -> Path:
    return home.data / "claims" / f"{check_name(run, 'run')}.json"
