"""Marks on the charts: each stored baseline, and each verdict in it that is red."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from grpo_core.axiom.documents import Document
from grpo_core.home import Home, parse_json

_BASELINE, _RED = "grpo-baseline", "grpo-red-verdict"
_MAX_TITLE, _MAX_DESCRIPTION = 256, 512  # of Axiom
_MAX_SHOWN = 10


def marks_of(home: Home, dataset: str) -> tuple[Document, ...]:
    """The annotations of the baselines that ``--grpo-save`` stored in ``home``, oldest first. A file that
    cannot be read has none."""
    found = [mark for path in sorted((home.data / "baselines").glob("*.json")) for mark in _of_file(path, dataset)]
    return tuple(sorted(found, key=lambda mark: mark["time"]))


def _of_file(path: Path, dataset: str) -> list[Document]:
    try:
        content = parse_json(path.read_bytes())
        stored_at = datetime.fromisoformat(content["created_at"])
        rows = [row for _, row in content["results"]]
        red = [f"{row['metric']}: {row['reason']}" for row in rows if row["verdict"] == "fail"]
        commit = content["fingerprint"]["commit"][:12]
        name = str(content["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    common = {"datasets": [dataset], "time": stored_at.isoformat()}
    gates = f"{len(rows)} gates, {len(red)} red; commit {commit or 'unknown'}"
    marks = [{**common, "type": _BASELINE, "title": f"baseline {name}"[:_MAX_TITLE], "description": gates}]
    if red:
        more = [f"and {len(red) - _MAX_SHOWN} more"] if len(red) > _MAX_SHOWN else []
        text = "\n".join([*red[:_MAX_SHOWN], *more])
        title = f"{len(red)} red in {name}"
        marks.append({**common, "type": _RED, "title": title[:_MAX_TITLE], "description": text[:_MAX_DESCRIPTION]})
    return marks
