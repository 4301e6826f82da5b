"""Baseline files: one session each, as JSON with a fingerprint and a checksum. They are never overwritten."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_grpo.baseline.fingerprint import Fingerprint, differing
from pytest_grpo.baseline.typed import TypedError, read_typed
from pytest_grpo.types import Row

if TYPE_CHECKING:
    from grpo_core.home import Home

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Baseline:
    """The rows of one session by node id, and the machine that measured them."""

    name: str
    created_at: str
    """UTC, ISO 8601."""
    fingerprint: Fingerprint
    results: list[tuple[str, Row]]


def check_new_name(home: Home, name: str) -> Path:
    """The file that ``name`` will be stored in.

    Raises:
        pytest.UsageError: the name is not safe as a file name, or exists.
    """
    from grpo_core.errors import InvalidNameError
    from grpo_core.home import check_name

    try:
        path = baselines_folder(home) / f"{check_name(name, 'baseline')}.json"
    except InvalidNameError as error:
        raise pytest.UsageError(str(error)) from error
    if path.exists():
        raise pytest.UsageError(f"baseline {name!r}: {path} exists and is never overwritten; choose another name")
    return path


def save_baseline(home: Home, name: str, fingerprint: Fingerprint, rows: Iterable[tuple[str, Row]]) -> Path:
    """Store (node id, row) under a new name and return the file.

    Raises:
        pytest.UsageError: there are no rows, the name is taken, or the folder cannot be written.
    """
    from filelock import FileLock

    from grpo_core.errors import HomeError
    from grpo_core.home import make_folder, write_json

    results = list(rows)
    if not results:
        raise pytest.UsageError(f"baseline {name!r}: no gate was measured, so nothing is stored; select phases to run")
    baseline = Baseline(name, datetime.now(UTC).isoformat(timespec="microseconds"), fingerprint, results)
    try:
        with FileLock(make_folder(baselines_folder(home)) / ".lock"):  # two sessions may store the same name at once
            return write_json(check_new_name(home, name), _content(baseline))
    except HomeError as error:
        raise pytest.UsageError(f"baseline {name!r}: {error}") from error


def as_text(baseline: Baseline) -> str:
    """``baseline`` as the content of a file."""
    return json.dumps(_content(baseline))


def read_baseline(home: Home, name_or_path: str) -> Baseline:
    """The baseline of that name in ``home``, or the one in the file of that path.

    Raises:
        pytest.UsageError: it does not exist, is damaged, or has an unknown format version.
    """
    return _read(find_baseline(home, name_or_path))


def read_sessions(home: Home, name_or_path: str) -> list[Baseline]:
    """The baseline, then the others of its folder that measured the same commit on the same machine and software.

    A session with changed files, or outside of a git repository, is alone: its code is unknown.

    Raises:
        pytest.UsageError: as ``read_baseline``.
    """
    path = find_baseline(home, name_or_path)
    baseline = _read(path)
    mine = baseline.fingerprint
    if not mine.commit or mine.dirty:
        return [baseline]
    others, _ = _read_folder(path.parent)
    return [baseline] + [
        other
        for other in others
        if other.name != baseline.name
        and (other.fingerprint.commit, other.fingerprint.dirty) == (mine.commit, False)
        and not differing(mine, other.fingerprint)
    ]


def find_baseline(home: Home, name_or_path: str) -> Path:
    """The file of ``read_baseline``.

    Raises:
        pytest.UsageError: there is none.
    """
    path = baselines_folder(home) / f"{name_or_path}.json"
    if "/" in name_or_path or not path.is_file():
        path = Path(name_or_path)
    if path.is_dir():
        raise pytest.UsageError(f"baseline {name_or_path!r}: it is a folder; name a baseline or its file")
    if not path.is_file():
        present = ", ".join(sorted(file.stem for file in baselines_folder(home).glob("*.json"))) or "nothing yet"
        raise pytest.UsageError(
            f"baseline {name_or_path!r}: no such file, and {baselines_folder(home)} has {present}; "
            "name one of these, or store one with --grpo-save"
        )
    return path


def list_baselines(home: Home) -> tuple[list[Baseline], list[str]]:
    """All readable baselines, oldest first, and one line for each unreadable one."""
    return _read_folder(baselines_folder(home))


def _read_folder(folder: Path) -> tuple[list[Baseline], list[str]]:
    readable, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            readable.append(_read(path))
        except pytest.UsageError as error:
            problems.append(str(error))
    return sorted(readable, key=lambda baseline: baseline.created_at), problems


def baselines_folder(home: Home) -> Path:
    return home.data / "baselines"


def _content(baseline: Baseline) -> dict[str, Any]:
    content = {"format_version": FORMAT_VERSION} | asdict(baseline)
    return content | {"sha256": _checksum(content)}


def _read(path: Path) -> Baseline:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise pytest.UsageError(f"baseline {path}: cannot be read: {error.strerror}; check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise _damaged(path, "it has no format_version")
    if content["format_version"] != FORMAT_VERSION:
        raise pytest.UsageError(
            f"baseline {path}: format version {content['format_version']!r:.100} is unknown, this is {FORMAT_VERSION}; "
            "read it with the pytest-grpo that stored it"
        )
    if content.pop("sha256", None) != _checksum(content):
        raise _damaged(path, "its checksum does not match")
    try:
        baseline = read_typed(Baseline, content)
    except TypedError as error:
        raise _damaged(path, str(error)) from error
    for _, row in baseline.results:
        if not all(math.isfinite(ratio) and ratio > 0 for ratio in row.ratios or ()):
            raise _damaged(path, f"{row.metric}: a ratio is not finite and above zero")
    return baseline


def _damaged(path: Path, problem: str) -> pytest.UsageError:
    return pytest.UsageError(
        f"baseline {path}: damaged: {problem}; restore the file, or move it away and measure again"
    )


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
