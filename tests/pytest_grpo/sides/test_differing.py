"""Which files differ between two folders: checkouts of one repository, of two, and folders without git."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pytest_grpo.checkouts.worktrees import open_worktree
from pytest_grpo.sides import differing
from pytest_grpo.sides.differing import differing_files
from pytest_grpo.types import SIDE_FOLDER
from tests.pytest_grpo.repositories import commit_files, git, make_repository, write_files

FILES = {
    ".gitignore": "*.log\nbuild/\n",
    "same.py": "S = 1\n",
    "pkg/changed.py": "C = 1\n",
    "pkg/removed.py": "R = 1\n",
    "pkg/back.py": "B = 1\n",
    "na me\u00e9.py": "N = 1\n",
}
CHANGED = ["added.py", "na me\u00e9.py", "new.py", "pkg/changed.py", "pkg/removed.py"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Its working tree differs from HEAD~1 in ``CHANGED``: by a commit, in the index, in the tree and by a new file."""
    folder = make_repository(tmp_path / "repository", FILES)
    (folder / "pkg" / "removed.py").unlink()
    commit_files(folder, {"pkg/back.py": "B = 2\n", "na me\u00e9.py": "N = 2\n"})
    write_files(folder, {"added.py": "A = 1\n"})
    git(folder, "add", "added.py")
    write_files(folder, {"pkg/changed.py": "C = 3\n", "pkg/back.py": "B = 1\n", "new.py": "N = 1\n", "a.log": "log"})
    write_files(folder, {"build/made.py": "M = 1\n", "pkg/__pycache__/a.pyc": "x"})
    (folder / ".git" / "info" / "exclude").write_text("__pycache__\n")
    return folder


def test_a_worktree_of_the_same_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differing, "_all_files", None)  # git tells what to look at
    with open_worktree(repository, "HEAD~1", "grpo-test-") as worktree:
        assert differing_files(repository, worktree) == CHANGED
        assert differing_files(worktree, repository) == CHANGED
        assert differing_files(repository / "pkg", worktree / "pkg") == ["changed.py", "removed.py"]
        write_files(worktree, {"same.py": "S = 2\n", "new.py": "N = 1\n", "b.log": ""})
        assert differing_files(repository, worktree) == sorted({*CHANGED, "same.py"} - {"new.py"})
        assert differing_files(worktree, worktree) == []


def test_a_clone_has_its_own_repository(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(repository), "clone")
    git(tmp_path / "clone", "checkout", "-q", "HEAD~1")
    assert differing_files(repository, tmp_path / "clone") == CHANGED


def test_a_folder_without_git_is_held_to_the_ignored_of_the_other(repository: Path, tmp_path: Path) -> None:
    with open_worktree(repository, "HEAD~1", "grpo-test-") as worktree:
        shutil.copytree(worktree, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    write_files(tmp_path / "copy", {"b.log": "", "build/other.py": "", "__pycache__/a.pyc": ""})
    assert differing_files(repository, tmp_path / "copy") == CHANGED
    assert differing_files(tmp_path / "copy", repository) == CHANGED


def test_two_folders_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    here, other = tmp_path / "here", tmp_path / "other"
    write_files(here, {"a.py": "1", "b.py": "1", "only/c.py": "1", ".github/ci.yml": "1"})
    write_files(other, {"a.py": "1", "b.py": "2", ".github/ci.yml": "2"})
    for cache in ("__pycache__/a.py", ".venv/a.py", "env/pyvenv.cfg", "env/a.py", "c/CACHEDIR.TAG", "c/a.py", "x.pyc"):
        write_files(other, {cache: "1"})
    assert differing_files(here, other) == [".github/ci.yml", "b.py", "only/c.py"]


def test_links_differ_by_where_they_point(tmp_path: Path) -> None:
    for name in ("here", "other"):
        write_files(tmp_path / name, {"a.py": "1", "b.py": "1"})
    for name, target in (("here", "a.py"), ("other", "b.py")):
        os.symlink("a.py", tmp_path / name / "same.py")
        os.symlink(target, tmp_path / name / "link.py")
        os.symlink("nowhere", tmp_path / name / "broken.py")
    assert differing_files(tmp_path / "here", tmp_path / "other") == ["link.py"]


def test_a_submodule_differs_by_its_commit(tmp_path: Path) -> None:
    make_repository(tmp_path / "library", {"lib.py": "L = 1\n"})
    folder = make_repository(tmp_path / "repository", {"a.py": "A = 1\n"})
    git(folder, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "library"), "lib")
    git(folder, "commit", "-qm", "adds a submodule")
    with open_worktree(folder, "HEAD", "grpo-test-") as worktree:
        assert differing_files(folder, worktree) == []
        git(folder / "lib", "-c", "user.email=a@b", "-c", "user.name=a", "commit", "-qm", "later", "--allow-empty")
        assert differing_files(folder, worktree) == ["lib"]


def test_a_repository_without_commits(tmp_path: Path) -> None:
    for name in ("here", "other"):
        git(tmp_path, "init", "-q", name)
        write_files(tmp_path / name, {"a.py": name, "b.py": "1"})
    assert differing_files(tmp_path / "here", tmp_path / "other") == ["a.py"]


def test_what_a_worker_has_of_the_other_side_is_no_difference(tmp_path: Path) -> None:
    other = f"{tmp_path.name}/here/{SIDE_FOLDER}"
    write_files(tmp_path.parent, {f"{tmp_path.name}/here/a.py": "A = 1\n", f"{other}/a.py": "A = 2\n"})
    write_files(tmp_path.parent, {f"{tmp_path.name}/here/b.toml": "", f"{other}/b.toml": ""})
    assert differing_files(tmp_path / "here", tmp_path / "here" / SIDE_FOLDER) == ["a.py"]
