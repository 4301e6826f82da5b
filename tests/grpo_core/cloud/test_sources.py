"""What is sent of the user's own, and what a container makes of it."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest

from grpo_core.cloud.sources import PATHS_FILE, keep_sources, sources_of, use_sources
from grpo_core.errors import ConfigError, InvalidNameError
from grpo_core.home import Home
from pytest_grpo.remote.project_files import TreeError
from pytest_grpo.remote.sources import pack_sources


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "data", tmp_path / "traces")


@pytest.fixture(autouse=True)
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home) -> Iterator[None]:
    """What ``use_sources`` changes of this process is as before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "/inherited")
    yield
    use_sources(home, "", tmp_path, unused)


def unused() -> None:
    raise AssertionError("the volume shows it already")


def archive(files: Mapping[str, str], paths: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, text in {**files, PATHS_FILE: json.dumps(paths)}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            opened.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_modules_and_data_are_where_they_were(home: Home, tmp_path: Path) -> None:
    files = {
        "games/sent_game.py": "from pathlib import Path\nWORD = Path('words.txt').read_text()",
        "words.txt": "army",
    }
    use_sources(home, keep_sources(home, archive(files, ["games", "."])), tmp_path, unused)
    game = import_module("sent_game")

    assert game.WORD == "army"
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(Path.cwd() / "games"), str(Path.cwd()), "/inherited"]


def test_changed_code_is_loaded_in_a_warm_container(home: Home, tmp_path: Path) -> None:
    for word in ("army", "fleet", "army"):
        digest = keep_sources(home, archive({"sent_word.py": f"WORD = {word!r}"}, ["."]))
        use_sources(home, digest, tmp_path, unused)
        module = import_module("sent_word")
        assert (module.WORD, module.__file__) == (word, str(Path.cwd() / "sent_word.py"))
    use_sources(home, "", tmp_path, unused)

    assert os.environ["PYTHONPATH"] == "/inherited"
    with pytest.raises(ModuleNotFoundError):
        import_module("sent_word")


def test_what_another_container_committed_is_looked_for(home: Home, tmp_path: Path) -> None:
    there = Home(tmp_path / "elsewhere", tmp_path / "traces")
    digest = keep_sources(there, archive({}, ["."]))

    def reload() -> None:
        (tmp_path / "elsewhere").rename(home.data)

    use_sources(home, digest, tmp_path, reload)
    with pytest.raises(ConfigError, match="sources 0000: not on the volume"):
        use_sources(home, "0000", tmp_path, lambda: None)
    with pytest.raises(InvalidNameError):
        use_sources(home, "../x", tmp_path, lambda: None)


def test_nothing_is_written_outside(home: Home, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    digest = keep_sources(home, archive({"../outside.py": "x = 1"}, ["."]))
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        use_sources(home, digest, tmp_path / "inner", unused)
    assert not list(tmp_path.rglob("outside.py"))


def test_a_run_keeps_its_sources(home: Home) -> None:
    assert sources_of(home, "demo", "") == ""
    assert sources_of(home, "demo", "first") == "first"
    assert sources_of(home, "demo", "") == "first"
    assert sources_of(home, "demo", "second") == sources_of(home, "demo", "") == "second"
    assert sources_of(home, "other", "") == ""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    for name in ("src/inner_game.py", "notes.txt", ".env", "venv/pyvenv.cfg", "venv/lib/installed_game.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for name in ("outer_game.py", "outer_package/__init__.py", "outer_package/rules/deep.py", "outer_package/db.pem"):
        (tmp_path / "libraries" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "libraries" / name).write_text("")
    for folder in ("project/src", "project/venv/lib", "libraries"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    return root


def packed(root: Path, module: str) -> tuple[set[str], list[str]]:
    with tarfile.open(fileobj=io.BytesIO(pack_sources(root, module).archive), mode="r:gz") as opened:
        paths = opened.extractfile(PATHS_FILE)
        assert paths is not None
        return set(opened.getnames()), json.loads(paths.read())


@pytest.mark.parametrize(
    ("module", "outside", "folders"),
    [
        ("inner_game", set(), ["src", "."]),
        ("outer_game", {"outer_game.py"}, ["src", ".", ".grpo-outside"]),
        (
            "outer_package.rules.deep",
            {"outer_package/__init__.py", "outer_package/rules/deep.py"},
            ["src", ".", ".grpo-outside"],
        ),
        ("installed_game", {"installed_game.py"}, ["src", ".", ".grpo-outside"]),
    ],
)
def test_the_project_is_packed_and_the_module_wherever_it_is(
    module: str, outside: set[str], folders: list[str], project: Path
) -> None:
    names, paths = packed(project, module)

    assert names == {"src/inner_game.py", "notes.txt", PATHS_FILE} | {f".grpo-outside/{name}" for name in outside}
    assert paths == folders


def test_a_module_that_is_nowhere_is_one_line(project: Path) -> None:
    with pytest.raises(TreeError, match="no module 'nowhere' here, so it cannot be sent"):
        pack_sources(project, "nowhere.game")
