from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_core.errors import HomeError, InvalidNameError
from grpo_core.home import SHARED, Home, cache_folder, check_name, make_folder, write_atomic, write_folder, write_json


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "a"))
    home = Home.from_environment()
    assert (home.data, home.traces) == (tmp_path / "a/data", tmp_path / "a/traces")
    named = {
        name: getattr(home, name) for name in ("benchmarks", "adapters", "buffer", "checkpoints", "events", "states")
    }
    assert named == {name: tmp_path / "a/data" / name for name in named}

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GRPO_HOME", "~/b")  # as an .env file has it, which no shell reads
    assert Home.from_environment().data == tmp_path / "b/data"
    monkeypatch.setenv("GRPO_HOME", "~nobody-of-this-name/b")
    assert Home.from_environment().data == Path.cwd() / "~nobody-of-this-name/b/data"
    monkeypatch.setenv("GRPO_CACHE", "~/c")
    assert cache_folder() == tmp_path / "c"

    monkeypatch.chdir(tmp_path)
    for unset in ("", None):
        monkeypatch.delenv("GRPO_HOME") if unset is None else monkeypatch.setenv("GRPO_HOME", unset)
        assert Home.from_environment().data == tmp_path / ".grpo/data"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "local-profile", "v1.2_b", "..a", "-"])
def test_safe_names_pass(name: str) -> None:
    assert check_name(name, "run") == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a b", "a\n", "ä", "a\0"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="only letters, digits") as error:
        check_name(name, "--profile-name")
    assert str(error.value).startswith(f"--profile-name {name!r}: ")


def test_write_atomic_creates_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "new/folder/file"
    assert write_atomic(target, b"one") == target
    assert target.read_bytes() == b"one"
    write_atomic(target, b"two")

    assert target.read_bytes() == b"two"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "no space"), HomeError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    fails: str, error: BaseException, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_atomic(tmp_path / "file", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(raised):
        write_atomic(target, b"new")

    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_are_private_unless_they_are_shared(umask: int, tmp_path: Path) -> None:
    assert mode_of(write_atomic(tmp_path / "private", b"")) == 0o600
    assert mode_of(write_json(tmp_path / "private.json", {})) == 0o600
    assert mode_of(write_atomic(tmp_path / "shared", b"", mode=SHARED)) == 0o666 & ~umask
    assert mode_of(write_json(tmp_path / "shared.json", {}, SHARED)) == 0o666 & ~umask
    write_atomic(tmp_path / "shared", b"private again")
    assert mode_of(tmp_path / "shared") == 0o600
    with write_folder(tmp_path / "folder"):
        pass
    assert mode_of(tmp_path / "folder") == 0o700
    with write_folder(tmp_path / "folder", 0o777):
        pass
    assert mode_of(tmp_path / "folder") == 0o777 & ~umask


def test_write_folder_creates_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with write_folder(target) as folder:
            (folder / "inside").mkdir()
            (folder / "inside/file").write_text(content)
            assert not target.exists() or (target / "inside/file").read_text() == "one"
        assert (target / "inside/file").read_text() == content
        assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError(28, "no space"), KeyboardInterrupt()])
@pytest.mark.parametrize("fails", ["fsync", "rename", "block"])
def test_a_folder_that_fails_leaves_the_old_one_and_nothing_else(
    fails: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    with write_folder(target) as folder:
        (folder / "file").write_text("old")

    def fail(*_: object) -> None:
        raise error

    def write() -> None:
        with write_folder(target) as folder:
            (folder / "file").write_text("new")
            if fails == "block":
                fail()

    with monkeypatch.context() as patch:
        if fails != "block":
            patch.setattr(os, fails, fail)
        with pytest.raises(type(error)):
            write()

    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_that_is_a_folder_is_a_home_error(tmp_path: Path) -> None:
    (tmp_path / "file/inside").mkdir(parents=True)
    with pytest.raises(HomeError, match=r"cannot write .*file.*set GRPO_HOME"):
        write_atomic(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_home_inside_a_file_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("I am a file")
    for folder in (blocker, blocker / "data"):
        with pytest.raises(HomeError, match="set GRPO_HOME to a folder that you can write") as error:
            make_folder(folder)
        assert str(folder) in str(error.value)
        with pytest.raises(HomeError):
            write_atomic(folder / "file", b"x")


def test_a_read_only_folder_is_a_home_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    with pytest.raises(HomeError, match="permission denied"):
        make_folder(tmp_path / "data")


def test_json_is_sorted_and_readable(tmp_path: Path) -> None:
    target = write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})

    assert json.loads(target.read_text()) == {"a": [1.5, None], "b": 1}
    assert target.read_text().splitlines()[1] == '  "a": ['
    assert target.read_text().endswith("}\n")


def test_json_that_cannot_be_said_changes_nothing(tmp_path: Path) -> None:
    target = write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}
