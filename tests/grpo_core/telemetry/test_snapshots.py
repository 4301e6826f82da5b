from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from grpo_core.errors import HomeError, InvalidNameError, SnapshotError
from grpo_core.home import Home
from grpo_core.telemetry.gpu import read_device
from grpo_core.telemetry.snapshots import persist_profile_snapshot, read_snapshot


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(data=tmp_path / "data", traces=tmp_path / "traces")


def test_a_snapshot_says_what_was_measured_and_on_what(home: Home) -> None:
    path = persist_profile_snapshot(home, "local", {"loss_forward_ms": 2.5, "rates": [1.0, float("nan")]})

    assert path == home.benchmarks / "local.json"
    snapshot = read_snapshot(home, "local")
    assert snapshot == json.loads(path.read_text())
    assert (snapshot["loss_forward_ms"], snapshot["rates"]) == (2.5, [1.0, None])
    assert (snapshot["schema_version"], snapshot["profile_name"]) == (1, "local")
    assert snapshot["device"] == asdict(read_device())
    assert snapshot["versions"]["python"] == platform.python_version()
    assert snapshot["versions"]["torch"] == version("torch")
    age = datetime.now(UTC) - datetime.fromisoformat(snapshot["created_at"])
    assert abs(age) < timedelta(minutes=5)


def test_the_commit_is_that_of_the_working_folder(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    persist_profile_snapshot(home, "outside", {})
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=none"]
    subprocess.run([*git, "init", "-q"], check=True)
    persist_profile_snapshot(home, "unborn", {})
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "m"], check=True)
    persist_profile_snapshot(home, "inside", {})

    assert read_snapshot(home, "outside")["git_commit"] is None
    assert read_snapshot(home, "unborn")["git_commit"] is None
    assert len(read_snapshot(home, "inside")["git_commit"]) == 40


def test_a_payload_may_not_repeat_the_header(home: Home) -> None:
    with pytest.raises(AssertionError, match="device"):
        persist_profile_snapshot(home, "x", {"device": "mine"})


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b"])
def test_a_bad_name_writes_nothing(name: str, home: Home) -> None:
    with pytest.raises(InvalidNameError, match="profile name"):
        persist_profile_snapshot(home, name, {})
    with pytest.raises(InvalidNameError, match="profile name"):
        read_snapshot(home, name)

    assert not home.data.exists()


def test_a_folder_that_cannot_be_written_is_one_line(home: Home) -> None:
    home.data.parent.mkdir(exist_ok=True)
    home.data.write_text("")

    with pytest.raises(HomeError, match="cannot write"):
        persist_profile_snapshot(home, "x", {})


def test_a_missing_snapshot_names_the_folder_and_what_is_there(home: Home) -> None:
    with pytest.raises(SnapshotError, match=r"'x': not in .*benchmarks, which has nothing yet"):
        read_snapshot(home, "x")
    for name in ("b", "a"):
        persist_profile_snapshot(home, name, {})

    with pytest.raises(SnapshotError, match="which has a, b; profile under that name first"):
        read_snapshot(home, "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema_version": 1, "profi', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "schema_version None, only 1 is allowed"),
        (b'{"schema_version": 99}', "schema_version 99, only 1 is allowed"),
    ],
)
def test_a_damaged_snapshot_names_its_file_and_what_to_do(content: bytes, message: str, home: Home) -> None:
    path = persist_profile_snapshot(home, "x", {})
    path.write_bytes(content)

    with pytest.raises(SnapshotError, match=rf"x\.json: {message}.*delete it and profile again") as caught:
        read_snapshot(home, "x")

    assert "\n" not in str(caught.value)
