"""Warm starts on disk: snapshots of environments at the end of their opening, keyed by what produced them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_core.home import parse_json, write_json

logger = logging.getLogger(__name__)

Key = Mapping[str, str | int]


class StateCache:
    """One JSON file per key in ``folder``: ``{key, snapshot, sha256}``, with the checksum of the snapshot.

    Several processes may share the folder: an entry appears whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.num_hits = 0
        self.num_misses = 0

    def get(self, key: Key) -> dict[str, Any] | None:
        """The snapshot stored under ``key``. A damaged entry is logged and counts as a miss."""
        path = self._path(key)
        snapshot = None
        try:
            snapshot = _read_entry(path, key)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("State cache entry %s is damaged (%s); the opening is computed again", path, error)
        if snapshot is None:
            self.num_misses += 1
        else:
            self.num_hits += 1
        return snapshot

    def put(self, key: Key, snapshot: Mapping[str, Any]) -> None:
        """Store ``snapshot``, which must be plain JSON, in place of what was there.

        Raises:
            HomeError: the folder cannot be written.
        """
        write_json(self._path(key), {"key": dict(key), "snapshot": snapshot, "sha256": _hash(snapshot)})

    def _path(self, key: Key) -> Path:
        return self._folder / f"{_hash(key)}.json"


def _hash(value: Mapping[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_entry(path: Path, key: Key) -> dict[str, Any]:
    """
    Raises:
        FileNotFoundError: there is no entry.
        ValueError: it is not one that was stored under ``key``.
    """
    entry = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(entry, dict) or set(entry) != {"key", "snapshot", "sha256"}:
        raise ValueError("not a cache entry")
    if entry["key"] != dict(key):
        raise ValueError("stored under another key")
    if not isinstance(entry["snapshot"], dict) or _hash(entry["snapshot"]) != entry["sha256"]:
        raise ValueError("its checksum does not match")
    return entry["snapshot"]
