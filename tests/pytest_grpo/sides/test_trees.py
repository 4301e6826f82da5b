"""What the other side is: revisions, folders and bad input, in real repositories."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from pytest_grpo.sides import interpreter
from pytest_grpo.sides.packages import Package
from pytest_grpo.sides.trees import SideTree, open_side, this_side
from tests.pytest_grpo.repositories import commit_files, git, make_repository, state_of, write_files
from tests.pytest_grpo.sides.conftest import FakeUv

FIRST, SECOND = {"a.py": "A = 1\n", "tests/test_a.py": ""}, {"a.py": "A = 2\n", "later/test_b.py": ""}

NOBODY = 65534


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where worktrees are made; empty after each test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits and a change; the tests run in it."""
    folder = make_repository(tmp_path / "repository", FIRST, SECOND)
    write_files(folder, {"a.py": "A = 3\n"})
    monkeypatch.chdir(folder)
    return folder


def seen(root: Path, against: str) -> tuple[SideTree, str, list[str]]:
    """The side, its ``a.py``, and the lines for the user."""
    lines: list[str] = []
    with open_side(root, against, [], lines.append) as side:
        return side, (side.root / "a.py").read_text(), lines


def refusal(root: Path, against: str) -> str:
    """Why there is no such side, in one line."""
    with pytest.raises(pytest.UsageError) as caught, open_side(root, against, [], print):
        pass
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("revision", ["HEAD~1", "v1", "old", "@{-1}", "full hash"])
def test_a_revision_is_checked_out(repository: Path, revision: str) -> None:
    git(repository, "tag", "v1", "HEAD~1")
    git(repository, "branch", "old", "HEAD~1")
    git(repository, "stash")
    git(repository, "checkout", "-q", "old")
    git(repository, "checkout", "-q", "main")
    git(repository, "stash", "pop")
    commit = git(repository, "rev-parse", "v1")
    before = state_of(repository)
    side, text, lines = seen(repository, commit if revision == "full hash" else revision)
    assert (text, lines) == ("A = 1\n", [])
    assert side.name == (commit[:12] if revision == "full hash" else revision)
    assert (side.commit, side.python) == (commit, Path(sys.executable))
    assert side.import_path[0] == str(side.root)
    assert state_of(repository) == before


def test_tests_in_a_sub_folder_run_in_the_same_one(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(repository / "src"), *sys.path])
    with open_side(repository / "tests", "HEAD~1", [], print) as side:
        assert (side.root / "test_a.py").exists()
        assert side.import_path[:2] == (str(side.root.parent), str(side.root.parent / "src"))


def test_the_working_tree_is_a_side(repository: Path) -> None:
    side = this_side(repository)
    assert (side.name, side.root, side.commit, side.import_path[0]) == ("here", repository, None, str(repository))
    git(repository, "stash")
    assert this_side(repository).commit == git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize("form", ["absolute", "relative", "plain"])
def test_a_folder_is_used_as_it_is(repository: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "copy"
    write_files(folder, {"a.py": "A = 9\n"})
    if form == "plain":
        folder = folder.rename(repository / "copy")
    side, text, lines = seen(repository, {"absolute": str(folder), "relative": "../copy", "plain": "copy"}[form])
    assert (text, lines) == ("A = 9\n", [])
    assert (side.name, side.root) == ("copy", folder)
    assert (folder / "a.py").exists()


def test_the_commit_of_a_folder_is_that_of_its_clean_checkout(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(repository), "clone")
    assert seen(repository, "../clone")[0].commit == git(repository, "rev-parse", "HEAD")
    write_files(tmp_path / "clone", {"a.py": "A = 7\n"})
    assert seen(repository, "../clone")[0].commit is None


def test_the_import_path_of_a_folder_in_another_checkout_is_mapped_there(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "-q", str(repository), "clone")
    monkeypatch.setattr(sys, "path", [str(repository / "src"), *sys.path])
    with open_side(repository / "tests", "../clone/tests", [], print) as side:
        assert side.import_path[:2] == (str(tmp_path / "clone"), str(tmp_path / "clone" / "src"))
    with open_side(repository / "tests", "../clone", [], print) as side:
        assert side.import_path[0] == str(tmp_path / "clone")
        assert str(tmp_path / "clone" / "src") not in side.import_path


def test_a_point_is_the_same_code(repository: Path) -> None:
    side, text, lines = seen(repository, ".")
    assert (side.name, side.root, text) == ("again", repository, "A = 3\n")
    assert lines == ["both sides are the same code with the same packages: what differs is noise"]


def test_a_name_of_both_is_the_revision_and_the_folder_is_told(repository: Path) -> None:
    write_files(repository, {"main/a.py": "A = 9\n"})
    _, text, lines = seen(repository, "main")
    assert (text, lines) == (
        "A = 2\n",
        ["main is a revision and a folder: the revision is taken; write ./main for the folder"],
    )
    assert seen(repository, "./main")[1:] == ("A = 9\n", [])


def test_a_folder_needs_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "here", {"a.py": "A = 1\n"})
    write_files(tmp_path / "copy", {"a.py": "A = 9\n"})
    for against in ("copy", "./copy"):
        side, text, _ = seen(tmp_path / "here", against)
        assert (side.commit, text) == (None, "A = 9\n")
    assert this_side(tmp_path / "here").commit is None
    assert refusal(tmp_path / "here", "main") == "revision 'main': git: not found; install it; or name a folder"


@pytest.mark.parametrize(
    ("against", "says"),
    [
        ("nope", "revision 'nope': not known in {root}; name a commit, tag, branch or folder"),
        ("HEAD~9", "revision 'HEAD~9': not known in {root}; name a commit, tag, branch or folder"),
        ("HEAD:a.py", "revision 'HEAD:a.py': not known in {root}; name a commit, tag, branch or folder"),
        ("HEAD..main", "revision 'HEAD..main': not known in {root}; name a commit, tag, branch or folder"),
        ("-b", "revision '-b': no revision is called so; name a commit, tag, branch or folder"),
        ("--all", "revision '--all': no revision is called so; name a commit, tag, branch or folder"),
        ("", "revision '': no revision is called so; name a commit, tag, branch or folder"),
        ("./gone", "folder './gone': No such file or directory; name a commit, tag, branch or folder"),
        ("a.py", "revision 'a.py': not known in {root}; name a commit, tag, branch or folder"),
        ("./a.py", "folder './a.py': Not a directory; name a commit, tag, branch or folder"),
    ],
)
def test_bad_input_is_one_line(repository: Path, against: str, says: str) -> None:
    before = state_of(repository)
    assert refusal(repository, against) == says.format(root=repository)
    assert state_of(repository) == before


def test_a_revision_without_the_folder_of_the_tests_is_refused(repository: Path) -> None:
    before = state_of(repository)
    assert refusal(repository / "later", "HEAD~1") == (
        "revision 'HEAD~1': has no folder later, where the tests are; name a later one"
    )
    assert state_of(repository) == before


def test_a_shallow_clone_is_told_to_fetch_more(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", "shallow")
    assert refusal(tmp_path / "shallow", "HEAD~1").endswith(
        "; this clone is shallow: git fetch --unshallow, or --depth=N, brings older commits"
    )


def test_a_branch_of_the_remote_alone_is_told(repository: Path, tmp_path: Path) -> None:
    git(repository, "branch", "old", "HEAD~1")
    git(tmp_path, "clone", "-q", str(repository), "clone")
    assert refusal(tmp_path / "clone", "old").endswith("name a commit, tag, branch or folder (origin/old is known)")
    assert seen(tmp_path / "clone", "origin/old")[1] == "A = 1\n"


def test_a_folder_in_no_repository_has_no_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    line = refusal(tmp_path, "main")
    assert line.startswith(f"revision 'main': {tmp_path}: not in a git repository (fatal: not a git repository")
    assert line.endswith("; or name a folder")


def test_a_repository_without_commits_has_no_revisions(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert refusal(tmp_path, "HEAD").startswith(f"revision 'HEAD': not known in {tmp_path}; name a commit")


def test_a_bare_repository_is_refused(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repository), "bare")
    assert refusal(tmp_path / "bare", "HEAD") == (
        f"revision 'HEAD': {tmp_path}/bare: a bare repository, which has no files; clone it, and run there; "
        "or name a folder"
    )


def test_a_dirty_submodule_is_refused(repository: Path, tmp_path: Path) -> None:
    make_repository(tmp_path / "library", {"lib.py": "L = 1\n"})
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "library"), "lib")
    commit_files(repository, {})
    assert seen(repository, "HEAD")[2] == []
    write_files(repository, {"lib/lib.py": "L = 2\n"})
    before = state_of(repository)
    assert refusal(repository, "HEAD") == (
        "submodule lib: has uncommitted changes, which no revision has; commit them there, or stash them"
    )
    assert state_of(repository) == before


def test_a_folder_that_may_not_be_read_is_refused(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(NOBODY)  # root may read every folder
        line = refusal(repository, "../closed")
    finally:
        os.seteuid(user)
    assert line == "folder '../closed': Permission denied; name a commit, tag, branch or folder"


def test_the_same_code_with_another_package(repository: Path, fake_uv: FakeUv, cache: Path) -> None:
    lines: list[str] = []
    with open_side(repository, ".", ["iniconfig==0.1"], lines.append) as side:
        assert (side.name, side.root) == ("iniconfig==0.1", repository)
        assert side.python.is_relative_to(cache)
    assert lines == ["making an environment with iniconfig==0.1 (once)"]
    with open_side(repository, "HEAD~1", ["iniconfig==0.1"], lines.append) as side:
        assert (side.name, side.python.is_relative_to(cache)) == ("HEAD~1+iniconfig==0.1", True)
    assert fake_uv.num_installs == 1


def test_a_package_that_is_installed_in_that_version_needs_no_environment(repository: Path, fake_uv: FakeUv) -> None:
    lines: list[str] = []
    with open_side(repository, ".", [f"iniconfig=={version('iniconfig')}"], lines.append) as side:
        assert side.python == Path(sys.executable)
    assert lines == ["both sides are the same code with the same packages: what differs is noise"]


def test_a_revision_with_another_lock_has_its_own_environment(repository: Path, fake_uv: FakeUv, cache: Path) -> None:
    commit_files(repository, {"requirements.lock": "iniconfig==0.1\nnumpy==2.0\n"})
    commit_files(repository, {"requirements.lock": f"iniconfig=={version('iniconfig')}\nnumpy==2.0\n"})
    lines: list[str] = []
    with open_side(repository, "HEAD~1", [], lines.append) as side:
        assert (side.name, side.python.is_relative_to(cache)) == ("HEAD~1", True)
    assert lines == [
        "the other side's requirements.lock asks for other packages than are installed",
        "making an environment with iniconfig==0.1 (once)",
    ]
    with open_side(repository, "HEAD", [], lines.append) as side:
        assert side.python == Path(sys.executable)


def test_another_lock_is_refused_where_there_is_one_environment(repository: Path, fake_uv: FakeUv) -> None:
    commit_files(repository, {"requirements.lock": "iniconfig==0.1\n"})
    commit_files(repository, {"requirements.lock": f"iniconfig=={version('iniconfig')}\n"})
    refused = pytest.raises(
        pytest.UsageError, match=r"^the other side's requirements.lock asks for .*, and it has one$"
    )
    with refused, open_side(repository, "HEAD~1", [], print, one_environment="it has one"):
        pass
    assert fake_uv.num_installs == 0
    with open_side(repository, "HEAD", [], print, one_environment="it has one") as side:
        assert side.python == Path(sys.executable)


def test_a_package_that_is_asked_for_replaces_the_locked_one(repository: Path, fake_uv: FakeUv) -> None:
    commit_files(repository, {"requirements.lock": "iniconfig==0.1\n"})
    commit_files(repository, {"requirements.lock": f"iniconfig=={version('iniconfig')}\n"})
    lines: list[str] = []
    with open_side(repository, "HEAD~1", ["iniconfig==0.2"], lines.append) as side:
        assert side.name == "HEAD~1+iniconfig==0.2"
    assert lines[-1] == "making an environment with iniconfig==0.2 (once)"


def test_an_environment_that_fails_leaves_no_worktree(repository: Path, fake_uv: FakeUv, cache: Path) -> None:
    fake_uv.then("echo 'error: No space left on device (os error 28)' >&2; exit 2")
    before = state_of(repository)
    with (
        pytest.raises(pytest.UsageError) as caught,
        open_side(repository, "HEAD~1", ["iniconfig==0.1"], lambda line: None),
    ):
        pass
    assert str(caught.value) == "an environment with iniconfig==0.1: No space left on device (os error 28)"
    assert state_of(repository) == before
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_without_uv_a_package_is_refused_before_anything_is_made(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.UsageError) as caught, open_side(repository, "HEAD~1", ["iniconfig==0.1"], print):
        pass
    assert (
        str(caught.value)
        == "--grpo-with iniconfig==0.1: uv, which makes environments, is not installed; pip install uv"
    )


def test_editable_installs_outside_of_the_tree_are_on_the_path_of_an_environment(
    repository: Path, fake_uv: FakeUv, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "my library"
    installed = {
        name: Package(name, "1.0", url=folder.as_uri(), is_editable=True)
        for name, folder in {"library": outside, "project": repository}.items()
    }
    monkeypatch.setattr(interpreter, "installed_packages", lambda: installed)
    packages, own = outside / ".venv" / "lib", [repository / "src", outside / "src", tmp_path / "x"]
    monkeypatch.setattr(sys, "prefix", str(outside / ".venv"))
    monkeypatch.setattr(sys, "path", [*map(str, [packages, *own]), *sys.path])
    with open_side(repository, "HEAD~1", ["iniconfig==0.1"], print) as side:
        assert side.import_path == (str(side.root), str(side.root / "src"), str(outside / "src"))
    with open_side(repository, "HEAD~1", [], print) as side:
        assert str(outside / "src") not in side.import_path  # this process's Python has it
