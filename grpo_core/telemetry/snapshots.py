"""Profile snapshots: the measurements of one profiled run and its machine, as one JSON file."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grpo_core.errors import SnapshotError, shown
from grpo_core.home import Home, check_name, parse_json, write_json
from grpo_core.telemetry.events import finite
from grpo_core.telemetry.gpu import read_device

SCHEMA_VERSION = 1


def persist_profile_snapshot(home: Home, profile_name: str, payload: Mapping[str, Any]) -> Path:
    """Write ``payload`` and a description of the machine to ``home.benchmarks/<profile_name>.json``.

    ``payload`` holds JSON values; NaN and infinities become null.

    Raises:
        InvalidNameError: ``profile_name`` is not safe as a file name.
        HomeError: the file cannot be written.
    """
    target = _path(home, profile_name)
    header = {
        "schema_version": SCHEMA_VERSION,
        "profile_name": profile_name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": asdict(read_device()),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
        "git_commit": _git_commit(),
    }
    assert header.keys().isdisjoint(payload), f"the payload repeats {sorted(header.keys() & payload.keys())}"
    return write_json(target, finite({**header, **payload}))


def read_snapshot(home: Home, profile_name: str) -> dict[str, Any]:
    """The snapshot that ``persist_profile_snapshot`` wrote.

    Raises:
        InvalidNameError: ``profile_name`` is not safe as a file name.
        SnapshotError: there is none of this name, or its file is damaged or of another schema.
    """
    path = _path(home, profile_name)
    try:
        snapshot = parse_json(path.read_bytes())
    except FileNotFoundError:
        present = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "nothing yet"
        raise SnapshotError(
            f"profile snapshot {profile_name!r}: not in {path.parent}, which has {present}; "
            "profile under that name first, or name one of these"
        ) from None
    except OSError as error:
        raise SnapshotError(f"profile snapshot {path}: {error.strerror}; make it readable") from error
    except ValueError as error:
        raise SnapshotError(f"profile snapshot {path}: not JSON ({error}); delete it and profile again") from error
    found = snapshot.get("schema_version") if isinstance(snapshot, dict) else None
    if found != SCHEMA_VERSION:
        raise SnapshotError(
            f"profile snapshot {path}: schema_version {shown(found)}, only {SCHEMA_VERSION} is allowed; "
            "delete it and profile again"
        )
    return snapshot


def _path(home: Home, profile_name: str) -> Path:
    return home.benchmarks / f"{check_name(profile_name, 'profile name')}.json"


def _git_commit() -> str | None:
    """The commit of the working folder, None outside a repository or without git."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--verify", "-q", "HEAD"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
